// Shows the picture with OpenSeadragon. The buttons, the keys and the line that a screen reader reads are ours.
"use strict";

(async () => {
  const STEP = 2;
  const NAME_CHARACTERS = 200;
  // 62 seconds in all: longer than a server refuses all that a client asks for.
  const TRIES = 5;
  const FIRST_WAIT_MS = 2000;

  const place = document.getElementById("picture");
  const state = document.getElementById("state");
  const buttons = document.getElementById("buttons");
  const service = new URL(place.dataset.service, document.baseURI).href;

  function say(text) {
    // Write only a different text: a screen reader reads out every change.
    if (state.textContent !== text) state.textContent = text;
  }

  // Whoever links here may give the picture a name behind the `#`, which no server and no cache sees. It is text, and short.
  function showName() {
    const given = new URLSearchParams(location.hash.slice(1)).get("name") ?? "";
    const name = Array.from(given.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, "\u{FFFD}")).slice(0, NAME_CHARACTERS).join("").trim();
    if (!name) return;
    document.getElementById("name").textContent = name;
    document.title = name;
  }

  // The picture comes from where this page comes from, whatever public address the server gives itself.
  async function information() {
    const answer = await fetch(`${service}/info.json`);
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    return Object.assign(await answer.json(), { id: service });
  }

  // OpenSeadragon adds a <style>, which the Content-Security-Policy forbids, unless it finds the one that it added before.
  // An element of this name that is not HTML is found, and is not a style.
  function keepStyleOut() {
    const found = document.createElementNS(null, "style");
    found.setAttribute("data-openseadragon-mobile-css", "");
    document.head.append(found);
  }

  function open(source) {
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    return OpenSeadragon({
      element: place,
      tileSources: [source],
      // The other one needs WebGL, which not every browser has and no browser needs for one picture.
      drawer: "canvas",
      showNavigationControl: false,
      animationTime: calm ? 0 : 0.6,
      maxZoomPixelRatio: 8,
      preserveImageSizeOnResize: true,
      gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true },
    });
  }

  // A picture that is shown whole stays whole when it is rotated, or when its place gets another size: with the window, or when
  // the buttons or a line of text appear. OpenSeadragon would cut off a part.
  function keepWhole(viewer) {
    const { viewport } = viewer;
    let isWhole = true;
    const look = () => {
      const away = viewport.getCenter().distanceTo(viewport.getHomeBounds().getCenter());
      isWhole = away < 1e-6 && Math.abs(viewport.getZoom() / viewport.getHomeZoom() - 1) < 1e-6;
    };
    viewer.addHandler("zoom", look);
    viewer.addHandler("pan", look);
    viewer.addHandler("rotate", () => {
      if (isWhole) viewport.goHome();
    });
    viewer.addHandler("resize", () => {
      if (!isWhole) return;
      // After OpenSeadragon has zoomed.
      queueMicrotask(() => {
        viewport.goHome(true);
        tellZoom(viewer);
      });
    });
  }

  // A server that has much to do refuses tiles (503, 429). OpenSeadragon forgets some of its own retries, and does not draw
  // what the others bring.
  function askAgain(viewer) {
    const tries = new WeakMap();
    viewer.addHandler("tile-load-failed", ({ tile }) => {
      const before = tries.get(tile) ?? 0;
      tries.set(tile, before + 1);
      if (before === TRIES) {
        say("Part of the picture could not be loaded. Reload the page to try again.");
        return;
      }
      setTimeout(() => {
        tile.exists = true;
        // Has it look for tiles that are missing.
        viewer.forceResize();
      }, FIRST_WAIT_MS * 2 ** before);
    });
  }

  // With --truncated the server shows what is left of a damaged picture, and says so in a header of each answer. The tiles come
  // as images, whose headers a page does not see.
  async function tellDamage({ sizes: [smallest] = [] }) {
    if (!smallest || !("showsDamaged" in place.dataset)) return;
    const answer = await fetch(`${service}/full/${smallest.width},${smallest.height}/0/default.jpg`);
    if (answer.headers.get("X-Truncated") !== "true") return;
    document.getElementById("damage").textContent = "The picture is damaged: parts of it may be missing.";
  }

  function describe(canvas) {
    // `application`: the arrows belong to the picture, not to the screen reader.
    canvas.setAttribute("role", "application");
    canvas.setAttribute("aria-roledescription", "zoomable picture");
    canvas.setAttribute("aria-label", document.getElementById("name").textContent);
    canvas.setAttribute("aria-describedby", "keys");
  }

  // One pixel of the picture on one of the screen, and not between two.
  function showPixels(viewport) {
    const middle = viewport.viewportToImageCoordinates(viewport.getCenter());
    const half = viewport.getContainerSize().times(devicePixelRatio / 2);
    const whole = middle.minus(half).apply(Math.round).plus(half);
    viewport.panTo(viewport.imageToViewportCoordinates(whole));
    viewport.zoomTo(viewport.imageToViewportZoom(1 / devicePixelRatio));
  }

  // OpenSeadragon stretches each tile by a pixel, so that no gap shows between two. Where pixels lie on pixels there is none.
  function keepPixels(viewer) {
    const isWhole = (number) => Math.abs(number - Math.round(number)) < 0.001;
    viewer.drawer.minimumOverlapRequired = () => {
      const { viewport } = viewer;
      const corner = viewport.pixelFromPointNoRotate(new OpenSeadragon.Point(0, 0), true).times(devicePixelRatio);
      const scale = viewport.viewportToImageZoom(viewport.getZoom(true)) * devicePixelRatio;
      return viewport.getRotation(true) !== 0 || scale < 0.999 || ![scale, corner.x, corner.y].every(isWhole);
    };
  }

  function actionsOf(viewer) {
    const { viewport } = viewer;
    const zoom = (factor) => {
      viewport.zoomBy(factor);
      viewport.applyConstraints();
    };
    return {
      "zoom-in": () => zoom(STEP),
      "zoom-out": () => zoom(1 / STEP),
      whole: () => viewport.goHome(),
      detail: () => showPixels(viewport),
      rotate: () => viewport.setRotation(viewport.getRotation() + 90),
      "full-screen": () => (document.fullscreenElement ? document.exitFullscreen() : document.documentElement.requestFullscreen()),
    };
  }

  function tellZoom(viewer) {
    const percent = 100 * devicePixelRatio * viewer.viewport.viewportToImageZoom(viewer.viewport.getZoom(false));
    const turned = ((viewer.viewport.getRotation() % 360) + 360) % 360;
    say(`Zoom ${percent < 1 ? percent.toPrecision(1) : Math.round(percent)} %${turned ? `, rotated ${turned}°` : ""}${viewer.viewport.getFlip() ? ", mirrored" : ""}`);
  }

  showName();
  keepStyleOut();
  say("The picture is being loaded.");
  try {
    const source = await information();
    const viewer = open(source);
    const actions = actionsOf(viewer);
    describe(viewer.canvas);
    keepPixels(viewer);
    keepWhole(viewer);
    buttons.addEventListener("click", (event) => actions[event.target.dataset.does]?.());
    // By what the key writes: OpenSeadragon looks at its place on an American keyboard.
    viewer.addHandler("canvas-key", (event) => {
      const does = { "+": "zoom-in", "-": "zoom-out", "−": "zoom-out" }[event.originalEvent.key];
      if (!does) return;
      event.preventDefaultAction = true;
      actions[does]();
    });
    viewer.addHandler("open", () => {
      buttons.hidden = false;
      tellZoom(viewer);
      // Where this fails, the tiles do too, and what they say counts.
      tellDamage(source).catch(() => {});
    });
    viewer.addHandler("animation-finish", () => tellZoom(viewer));
    viewer.addHandler("rotate", () => tellZoom(viewer));
    viewer.addHandler("flip", () => tellZoom(viewer));
    askAgain(viewer);
    viewer.addHandler("open-failed", (event) => say(`The picture could not be loaded: ${event.message}`));
  } catch (error) {
    say(`The picture could not be loaded: ${error.message}. Reload the page to try again.`);
  }
})();
