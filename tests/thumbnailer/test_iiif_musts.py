"""Each sentence with MUST of IIIF's Image API 3.0 and 2.1, and the tests that fail if the server does otherwise.

Where the sentence is about clients, the test shows what the server does with those that disobey, or that it gives them
no cause to. Where it is about a property that is optional, the test shows the whole document, without it.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

HERE = Path(__file__).parent

INFO_3 = "test_iiif_http::test_information_of_version_3_is_complete"
INFO_2 = "test_iiif_http::test_information_of_version_2_is_complete"
ANNOUNCED = "test_iiif_http::test_every_size_and_tile_that_is_announced_is_given"
BOUNDS = "test_iiif_http::test_bounds_rights_and_public_url_are_in_the_information"
SETTINGS = "test_iiif_http::test_wrong_settings_stop_the_start"
ADDRESS = "test_iiif_http::test_no_header_of_a_stranger_changes_the_address"
LINKS = "test_iiif_http::test_picture_has_its_links_and_the_headers_of_a_thumbnail"
ERRORS = "test_iiif_http::test_wrong_requests_have_the_status_of_the_specification"
REDIRECT = "test_iiif_http::test_base_address_leads_to_the_information"
ESCAPED = "test_iiif_http::test_percent_encoded_paths_are_read"
ACCEPT = "test_iiif_http::test_accept_header_chooses_json_or_json_ld"
SLASHES = "test_iiif_hostile::test_escaped_slashes_and_dots_stay_within_their_part"
BODY = "test_iiif_pixels::test_pixels_equal_those_of_a_full_decode"
QUALITY = "test_iiif_pixels::test_every_quality_is_written_in_every_format"
IDENTIFIER = "test_iiif_request::test_identifier_that_is_not_a_digest_names_nothing"
REGION = "test_iiif_request::test_what_is_not_a_region_is_refused"
SIZE = "test_iiif_request::test_what_is_not_a_size_is_refused"
SIZES = "test_iiif_request::test_size_of_each_form"
ROTATION = "test_iiif_request::test_what_is_not_a_rotation_is_refused"
LIMITS = "test_iiif_request::test_bounds_of_the_server_hold"
BEYOND = "test_iiif_request::test_size_beyond_the_bounds_is_refused"
VALIDATOR = "test_iiif_validator::test_validator_of_the_consortium_passes"

# In both, word by word or nearly.
SHARED = {
    "2. The prefix MAY contain several segments; all other special characters MUST be encoded": (SETTINGS,),
    "2. Special characters of the identifier MUST be URI encoded": (IDENTIFIER, ESCAPED),
    "2.1 The URI for requesting an image MUST conform to the template": (LINKS, ERRORS),
    "2.2 The URI for requesting image information MUST conform to the template": (INFO_3, INFO_2, ERRORS),
    "2.2 Scheme, server, prefix and identifier MUST be identical to those of the image request": (ADDRESS, BOUNDS),
    "3. All special characters (? or #) MUST be URI encoded": (IDENTIFIER, ESCAPED),
    "3. Any slashes in the identifier MUST be URI encoded": (SLASHES, ERRORS),
    "4. The sequence of parameters in the URI MUST be in the order described": (ERRORS,),
    "5. Servers MUST support requests for image information": (INFO_3, INFO_2),
    "5.1 The request for the information MUST conform to the template": (INFO_3, INFO_2, ERRORS),
    "5.2 maxWidth MUST be specified if maxHeight is specified": (INFO_3, INFO_2),
    "5.2 Servers MUST ensure that sizes and tiles are within the limits expressed": (BOUNDS,),
    "5.3 A request with the w,h syntax using the sizes MUST be supported": (ANNOUNCED,),
    "5.3 The type of a size, if present, MUST be Size (iiif:Size)": (INFO_3, INFO_2),
    "5.4 The type of a tile, if present, MUST be Tile (iiif:Tile)": (INFO_3, INFO_2),
    "5.4 Tiles MUST have a unique combination of width and height": (INFO_3, INFO_2),
    "5.7 If a feature is not listed, a client MUST assume that it is not supported": (INFO_3, INFO_2, VALIDATOR),
    "6. The information MUST specify the compliance level": (INFO_3, INFO_2, VALIDATOR),
    "6. The level MUST be one of those listed": (INFO_3, INFO_2, VALIDATOR),
    "7.2 With status 200 the body MUST be the requested image or information": (BODY, INFO_3, INFO_2),
    "7.2 With 301, 302 or 303 Location MUST be set": (REDIRECT,),
    "7.2 Clients MUST NOT assume that the first response contains the image": (REDIRECT,),
    "9. Slash separators MUST NOT be encoded": (SLASHES,),
    "9. Clients MUST percent-encode special characters": (ESCAPED, IDENTIFIER),
    "9. Slashes within the identifier MUST be percent-encoded": (SLASHES, ERRORS),
    "Compliance: level 0 is what MUST be implemented": (VALIDATOR,),
}

VERSION_3 = {
    **SHARED,
    "4. Size and region in pixels MUST be non-negative integers": (REGION, SIZE),
    "4. Percentages and the rotation MUST be positive floating point numbers or integers": (REGION, SIZE, ROTATION),
    "4.2 w MUST NOT be greater than the width of the extracted region": (SIZES, ERRORS),
    "4.2 h MUST NOT be greater than the height of the extracted region": (SIZES,),
    "4.2 n of pct:n MUST NOT be greater than 100": (SIZES,),
    "4.2 w and h MUST NOT be greater than the dimensions of the extracted region": (SIZES,),
    "4.2 !w,h MUST be as large as possible, not larger than region, box or limits": (SIZES, LIMITS, VALIDATOR),
    "4.2 ^!w,h MUST be as large as possible, not larger than box or limits": (SIZES, LIMITS),
    "4.2 The scaled region MUST NOT be less than 1 pixel or greater than the limits": (SIZES, LIMITS, BEYOND),
    "4.4 Qualities beyond default MUST be listed in extraQualities": (INFO_3,),
    "4.4 A request for color MUST return an image": (QUALITY,),
    "4.4 A request for color MUST NOT result in an error": (QUALITY,),
    "4.7 Floating point values MUST consist only of decimal digits and a point": (REGION, SIZE, ROTATION),
    "5.2 @context MUST be the URI, or an array with it as the last item": (INFO_3,),
    "5.2 type MUST be ImageService3": (INFO_3,),
    "5.2 profile MUST be level0, level1 or level2": (INFO_3,),
    "5.2 Clients MUST NOT expect more than maxWidth": (SIZES, BOUNDS),
    "5.2 Clients MUST NOT expect more than maxHeight": (SIZES, BOUNDS),
    "5.2 Clients MUST NOT expect more than maxArea": (
        "test_iiif_request::test_turned_picture_beyond_the_largest_area_is_refused",
    ),
    "5.5 preferredFormats MUST be among the formats": (INFO_3,),
    "5.6 rights MUST be a URI of Creative Commons, RightsStatements.org or the registry": (SETTINGS, BOUNDS),
    "5.7 A server that supports sizeUpscaling MUST specify maxWidth or maxArea": (INFO_3,),
    "5.7 Scoped contexts MUST be used for extensions": (INFO_3,),
    "5.8 partOf MUST be an array of objects": (INFO_3,),
    "5.8 Items of partOf MUST have id and type": (INFO_3,),
    "5.8 The URI of seeAlso MUST identify one representation": (INFO_3,),
    "5.8 seeAlso MUST be an array of objects": (INFO_3,),
    "5.8 Items of seeAlso MUST have id and type": (INFO_3,),
    "5.8 service MUST be an array of objects": (INFO_3,),
    "5.8 Items of service MUST have id and type, or @id and @type": (INFO_3,),
    "7. Servers MUST support GET": (INFO_3, BODY),
}

VERSION_2 = {
    **SHARED,
    "5.1 The content type MUST be application/json or application/ld+json": (ACCEPT, INFO_2),
    "5.1 Clients that want JSON-LD MUST say so in Accept": (ACCEPT,),
    "5.1 Otherwise the server MUST return the regular JSON content type": (ACCEPT,),
    "5.2 @type, if present, MUST be iiif:Image": (INFO_2,),
    "5.2 The first entry of profile MUST be a compliance level URI": (INFO_2,),
    "5.3 @type of a profile, if present, MUST be iiif:ImageProfile": (INFO_2,),
    "5.3 Clients MUST ignore URIs in supports that they do not know": (INFO_2,),
    "5.4 attribution MUST be shown": (INFO_2,),
    "5.4 Logos MUST be rendered": (INFO_2,),
    "5.4 Clients MUST NOT crop, rotate or distort the logo": (INFO_2,),
    "5.4 Clients MUST choose among values of attribution in this way": (INFO_2,),
    "5.4 Without languages the client MUST display all values": (INFO_2,),
    "5.4 With languages it MUST display the values of the best match": (INFO_2,),
    "5.4 Without a match it MUST select a language": (INFO_2,),
    "5.4 Without a match it MUST display the values without a language": (INFO_2,),
    "5.4 Clients MUST display attributions of both APIs": (INFO_2,),
    "6. The URI MUST be one of those listed": (INFO_2, VALIDATOR),
}


def functions_of(module: str) -> set[str]:
    tree = ast.parse((HERE / f"{module}.py").read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("musts", [VERSION_3, VERSION_2], ids=["3.0", "2.1"])
def test_every_sentence_with_must_has_tests_that_are_there(musts: dict[str, tuple[str, ...]]) -> None:
    named = {test for tests in musts.values() for test in tests}
    modules = {test.partition("::")[0] for test in named}
    there = {f"{module}::{name}" for module in modules for name in functions_of(module)}

    assert [sentence for sentence, tests in musts.items() if not tests] == []
    assert sorted(named - there) == []
