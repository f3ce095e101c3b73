"""The CloudFormation templates of aws/, as written and as evaluated for given parameters."""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

AWS = Path(__file__).resolve().parents[2] / "aws"

_NO_VALUE = object()
_PSEUDO_PARAMETERS = {
    "AWS::AccountId": "123456789012",
    "AWS::NoValue": _NO_VALUE,
    "AWS::Partition": "aws",
    "AWS::Region": "us-west-2",
    "AWS::StackId": "arn:aws:cloudformation:us-west-2:123456789012:stack/stash/51af3dc0-da77-11e4-872e-1234567db123",
    "AWS::StackName": "stash",
    "AWS::URLSuffix": "amazonaws.com",
}


class Loader(yaml.CSafeLoader):  # type: ignore[misc]  # PyYAML ships no annotations
    """YAML with CloudFormation's short forms: `!Ref x` becomes {"Ref": "x"}, `!Sub x` {"Fn::Sub": "x"}."""

    def compose_node(self, parent: yaml.Node, index: Any) -> yaml.Node:
        assert not self.check_event(yaml.AliasEvent), "CloudFormation does not support aliases"
        return super().compose_node(parent, index)


def _short_form(loader: Loader, suffix: str, node: yaml.Node) -> dict[str, Any]:
    name = suffix if suffix in ("Ref", "Condition") else f"Fn::{suffix}"
    if isinstance(node, yaml.ScalarNode):
        return {name: loader.construct_scalar(node)}
    if isinstance(node, yaml.SequenceNode):
        return {name: loader.construct_sequence(node, deep=True)}
    assert isinstance(node, yaml.MappingNode)
    return {name: loader.construct_mapping(node, deep=True)}


Loader.add_multi_constructor("!", _short_form)


def read_template(name: str) -> dict[str, Any]:
    return copy.deepcopy(_parsed(name))


# Several modules read a template, and do so when pytest collects, in each of its processes.
@functools.cache
def _parsed(name: str) -> dict[str, Any]:
    template: dict[str, Any] = yaml.load((AWS / name).read_text(), Loader)
    return template


class Stack:
    """A template evaluated for its parameters.

    A resource's Ref is its name and `!GetAtt A.B` is "A.B", unless `known` has another value. What another stack
    exports is the name of the export, unless `known` has its value.
    """

    def __init__(self, template: dict[str, Any], parameters: Mapping[str, Any], known: Mapping[str, str]) -> None:
        assert parameters.keys() <= template["Parameters"].keys()
        defaults = {name: given["Default"] for name, given in template["Parameters"].items() if "Default" in given}
        self._conditions: dict[str, Any] = template.get("Conditions", {})
        self._rules: dict[str, Any] = template.get("Rules", {})
        self._values = {**_PSEUDO_PARAMETERS, **defaults, **parameters, **known}
        self.resources: dict[str, Any] = self._resources(template, "Resources")
        self.outputs: dict[str, Any] = self._resources(template, "Outputs")

    def properties(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.resources[name]["Properties"]
        return found

    def of_type(self, kind: str) -> dict[str, dict[str, Any]]:
        """name -> properties"""
        found = {name: each["Properties"] for name, each in self.resources.items() if each["Type"] == kind}
        assert found, kind
        return found

    def policies(self, role: str) -> dict[str, dict[str, Any]]:
        """The policies of a role: name -> document"""
        return {policy["PolicyName"]: policy["PolicyDocument"] for policy in self.properties(role)["Policies"]}

    def managed_policies(self, role: str) -> list[dict[str, Any]]:
        """The documents of policies that the stack attaches to a role."""
        return [
            each["Properties"]["PolicyDocument"]
            for each in self.resources.values()
            if each["Type"] == "AWS::IAM::ManagedPolicy" and role in each["Properties"]["Roles"]
        ]

    def user_data(self, launch_template: str) -> dict[str, Any]:
        text = self.properties(launch_template)["LaunchTemplateData"]["UserData"]["Fn::Base64"]
        assert text.startswith("#cloud-config\n")
        parsed: dict[str, Any] = yaml.safe_load(text)
        return parsed

    def files(self, launch_template: str) -> dict[str, str]:
        """The files that the user data writes: path -> content"""
        return {file["path"]: file["content"] for file in self.user_data(launch_template)["write_files"]}

    def _resources(self, template: dict[str, Any], part: str) -> dict[str, Any]:
        return {
            name: self._resolved({key: value for key, value in each.items() if key != "Condition"})
            for name, each in template.get(part, {}).items()
            if "Condition" not in each or self._holds(each["Condition"])
        }

    def broken_rules(self) -> set[str]:
        """What CloudFormation answers to these parameters, before it creates anything."""
        return {
            assertion["AssertDescription"]
            for rule in self._rules.values()
            if self._resolved(rule.get("RuleCondition", True))
            for assertion in rule["Assertions"]
            if not self._resolved(assertion["Assert"])
        }

    def _holds(self, name: str) -> bool:
        return bool(self._resolved(self._conditions[name]))

    def _resolved(self, value: Any) -> Any:
        if isinstance(value, list):
            return [part for part in map(self._resolved, value) if part is not _NO_VALUE]
        if not isinstance(value, dict):
            return value
        if len(value) == 1:
            (name, argument) = next(iter(value.items()))
            if name == "Ref":
                return self._values.get(argument, argument)
            if name == "Condition" and isinstance(argument, str):
                return self._holds(argument)
            if name == "Fn::If":
                condition, then, otherwise = argument
                return self._resolved(then if self._holds(condition) else otherwise)
            if name == "Fn::Sub":
                return self._substituted(*(argument if isinstance(argument, list) else (argument, {})))
            if name == "Fn::ImportValue":
                export = self._resolved(argument)
                return self._values.get(export, export)
            if name in _FUNCTIONS:
                return _FUNCTIONS[name](self._resolved(argument))
        resolved = {key: self._resolved(part) for key, part in value.items()}
        return {key: part for key, part in resolved.items() if part is not _NO_VALUE}

    def _substituted(self, text: str, names: Mapping[str, Any]) -> str:
        local = self._resolved(dict(names))
        return re.sub(
            r"\$\{([\w:.]+)\}", lambda found: str(local.get(found[1], self._resolved({"Ref": found[1]}))), text
        )


_FUNCTIONS: Mapping[str, Any] = {
    "Fn::And": all,
    "Fn::Equals": lambda two: str(two[0]) == str(two[1]),
    "Fn::GetAtt": lambda name: name if isinstance(name, str) else ".".join(name),
    "Fn::Not": lambda one: not one[0],
    "Fn::Or": any,
    "Fn::Select": lambda argument: argument[1][int(argument[0])],
    "Fn::Split": lambda argument: argument[1].split(argument[0]),
}
