// Draws the solids of a report: one WebGL context for all, copied into a flat canvas a pane; what is out of sight has none.
// A page without WebGL keeps its pictures. What the page holds are numbers; texts stay in the HTML.
"use strict";
(() => {
  const meshes = JSON.parse(document.getElementById("solids").textContent);
  const START = new THREE.Vector3(1, -1, 0.8).normalize(); // from where the pictures are drawn, too
  const GRID = 100; // the longest side of a geometry, whatever the solid's
  const TURN = Math.PI / 18;
  const LOOKS = {
    target: { colour: 0x8998ab },
    answer: { colour: 0x6895cd },
    common: { colour: 0xa0a8b2, opacity: 0.34 },
    missing: { colour: 0xe27728 },
    extra: { colour: 0x624ed2 },
  };
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const shapes = new Map();
  let renderer = null;

  function bytes(text) {
    const raw = atob(text);
    const found = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) found[i] = raw.charCodeAt(i);
    return new DataView(found.buffer);
  }

  function numbers(text, size) {
    const view = bytes(text);
    const found = new Uint32Array(view.byteLength / size);
    for (let i = 0; i < found.length; i++) found[i] = size === 4 ? view.getUint32(4 * i, true) : view.getUint16(2 * i, true);
    return found;
  }

  // The geometry and the edges of a mesh, its corner at 0, made once.
  function shape(number) {
    if (!shapes.has(number)) {
      const record = meshes[number];
      const plain = new THREE.BufferGeometry();
      const places = Float32Array.from(numbers(record.vertices, 2), (value) => (value * GRID) / 65535);
      plain.setAttribute("position", new THREE.BufferAttribute(places, 3));
      plain.setIndex(new THREE.BufferAttribute(numbers(record.triangles, record.wide ? 4 : 2), 1));
      shapes.set(number, {
        low: new THREE.Vector3(...record.low),
        scale: (record.step * 65535) / GRID,
        high: highest(places),
        faces: THREE.toCreasedNormals(plain, 0.6),
        edges: new THREE.EdgesGeometry(plain, 35),
      });
    }
    return shapes.get(number);
  }

  function highest(places) {
    const found = new THREE.Vector3();
    for (let i = 0; i < places.length; i += 3) {
      found.max(new THREE.Vector3(places[i], places[i + 1], places[i + 2]));
    }
    return found;
  }

  function sceneOf(parts) {
    const scene = new THREE.Scene();
    for (const [number, role] of parts) {
      const { low, scale, faces, edges } = shape(number);
      const look = LOOKS[role];
      const clear = look.opacity !== undefined;
      const material = new THREE.MeshLambertMaterial({
        color: look.colour,
        transparent: clear,
        opacity: look.opacity ?? 1,
        depthWrite: !clear,
        polygonOffset: true, // behind its edges, and what both have behind what only one has
        polygonOffsetFactor: clear ? 4 : 1,
        polygonOffsetUnits: clear ? 4 : 1,
      });
      const lines = new THREE.LineBasicMaterial({ transparent: true, opacity: clear ? 0.35 : 0.8 });
      for (const drawn of [new THREE.Mesh(faces, material), new THREE.LineSegments(edges, lines)]) {
        drawn.position.copy(low);
        drawn.scale.setScalar(scale);
        scene.add(drawn);
      }
    }
    return scene;
  }

  // A row of panes that turn together.
  class Row {
    constructor(element) {
      this.element = element;
      this.panes = [...element.querySelectorAll("[data-meshes]")].map((view) => ({
        view,
        parts: view.dataset.meshes.split(" ").map((part) => part.split(":")).map(([number, role]) => [Number(number), role]),
      }));
      this.asked = false;
      this.shown = false;
      this.made = false;
    }

    make() {
      const low = new THREE.Vector3(Infinity, Infinity, Infinity);
      const high = low.clone().negate();
      for (const pane of this.panes) {
        pane.scene = sceneOf(pane.parts);
        for (const [number] of pane.parts) {
          const one = shape(number);
          low.min(one.low);
          high.max(one.high.clone().multiplyScalar(one.scale).add(one.low));
        }
      }
      const reach = Math.max(low.distanceTo(high) / 2, 1e-9) * 1.04;
      const middle = low.clone().add(high).multiplyScalar(0.5);
      this.camera = new THREE.OrthographicCamera(-reach, reach, reach, -reach, reach / 100, reach * 20);
      this.camera.up.set(0, 0, 1);
      this.camera.position.copy(START).multiplyScalar(reach * 8).add(middle);
      const sky = new THREE.HemisphereLight(0xffffff, 0x8a8f98, 1.9);
      const sun = new THREE.DirectionalLight(0xffffff, 1.6);
      sun.position.copy(new THREE.Vector3(-0.4, 0.7, 1)); // beside the eye
      this.camera.add(sun);
      this.lights = [sky, this.camera];
      this.controls = new THREE.OrbitControls(this.camera, this.element.querySelector(".panes"));
      this.controls.target.copy(middle);
      this.controls.enableZoom = false; // the wheel is the page's until a pane is chosen
      this.controls.minZoom = 0.3;
      this.controls.maxZoom = 40;
      this.controls.domElement.style.touchAction = "pan-y"; // a finger that goes up or down moves the page
      this.controls.update();
      this.controls.saveState();
      this.controls.addEventListener("change", () => this.ask());
      this.made = true;
    }

    show() {
      this.shown = true;
      if (!this.made) this.make();
      for (const pane of this.panes) {
        pane.canvas ??= pane.view.appendChild(document.createElement("canvas"));
        pane.view.classList.add("drawn");
      }
      this.ask();
    }

    hide() {
      this.shown = false;
      for (const pane of this.panes) {
        pane.canvas?.remove(); // and its memory
        pane.canvas = null;
        pane.view.classList.remove("drawn");
      }
    }

    ask() {
      if (this.asked || !this.shown) return;
      this.asked = true;
      requestAnimationFrame(() => {
        this.asked = false;
        if (this.shown) this.panes.forEach((pane) => this.draw(pane));
      });
    }

    draw(pane) {
      const ratio = Math.min(devicePixelRatio || 1, 2);
      const width = Math.min(Math.round(pane.view.clientWidth * ratio), 2048);
      const height = Math.min(Math.round(pane.view.clientHeight * ratio), 2048);
      if (!width || !height || !renderer) return;
      if (pane.canvas.width !== width || pane.canvas.height !== height) {
        pane.canvas.width = width;
        pane.canvas.height = height;
      }
      const ink = dark.matches ? 0xe6e8ec : 0x1e2632;
      pane.scene.traverse((one) => one.isLineSegments && one.material.color.set(ink));
      pane.scene.add(...this.lights);
      const wide = width / height;
      [this.camera.left, this.camera.right] = [this.camera.bottom * wide, this.camera.top * wide];
      this.camera.updateProjectionMatrix();
      renderer.setSize(width, height, false);
      renderer.render(pane.scene, this.camera);
      pane.scene.remove(...this.lights);
      const flat = pane.canvas.getContext("2d");
      flat.clearRect(0, 0, width, height);
      flat.drawImage(renderer.domElement, 0, 0);
    }

    turn(right, up) {
      const offset = this.camera.position.clone().sub(this.controls.target);
      const far = offset.length();
      const around = Math.atan2(offset.y, offset.x) + right;
      const polar = Math.min(Math.max(Math.acos(offset.z / far) + up, 0.001), Math.PI - 0.001);
      offset.set(Math.sin(polar) * Math.cos(around), Math.sin(polar) * Math.sin(around), Math.cos(polar));
      this.camera.position.copy(this.controls.target).addScaledVector(offset, far);
      this.controls.update();
      this.ask();
    }

    zoom(factor) {
      this.camera.zoom = Math.min(Math.max(this.camera.zoom * factor, this.controls.minZoom), this.controls.maxZoom);
      this.camera.updateProjectionMatrix();
      this.controls.update();
      this.ask();
    }

    reset() {
      this.controls.reset();
      this.ask();
    }

    key(event) {
      if (!this.made || event.ctrlKey || event.metaKey || event.altKey) return;
      const turns = { ArrowLeft: [-TURN, 0], ArrowRight: [TURN, 0], ArrowUp: [0, -TURN], ArrowDown: [0, TURN] };
      if (turns[event.key]) this.turn(...turns[event.key]);
      else if (event.key === "+" || event.key === "=") this.zoom(1.2);
      else if (event.key === "-") this.zoom(1 / 1.2);
      else if (event.key === "0" || event.key === "Home") this.reset();
      else return;
      event.preventDefault();
    }

    listen() {
      const panes = this.element.querySelector(".panes");
      panes.addEventListener("keydown", (event) => this.key(event));
      panes.addEventListener("dblclick", () => this.made && this.reset());
      panes.addEventListener("pointerdown", (event) => event.target.closest("[data-meshes]")?.focus({ preventScroll: true }));
      panes.addEventListener("focusin", () => this.made && (this.controls.enableZoom = true));
      panes.addEventListener("focusout", () => this.made && (this.controls.enableZoom = false));
      for (const { view } of this.panes) view.tabIndex = 0;
      const size = document.createElement("button");
      size.type = "button";
      size.className = "size";
      size.textContent = "larger";
      size.setAttribute("aria-expanded", "false");
      size.addEventListener("click", () => {
        const large = this.element.classList.toggle("large");
        size.textContent = large ? "smaller" : "larger";
        size.setAttribute("aria-expanded", String(large));
        this.ask();
      });
      this.element.querySelector(".tools").append(size);
    }
  }

  const canvas = document.createElement("canvas");
  const context = canvas.getContext("webgl2", { antialias: true, alpha: true });
  if (!context) return; // the pictures stay
  renderer = new THREE.WebGLRenderer({ canvas, context });
  document.documentElement.classList.add("webgl");
  const rows = new Map();
  for (const element of document.querySelectorAll(".solids")) {
    const row = new Row(element);
    if (row.panes.length) rows.set(element, row);
  }
  const sight = new IntersectionObserver(
    (seen) => {
      for (const { target, isIntersecting } of seen) {
        const row = rows.get(target);
        if (isIntersecting !== row.shown) isIntersecting ? row.show() : row.hide();
      }
    },
    { rootMargin: "300px" },
  );
  for (const [element, row] of rows) {
    row.listen();
    sight.observe(element);
  }
  const again = () => rows.forEach((row) => row.ask());
  dark.addEventListener("change", again);
  addEventListener("resize", again);
  addEventListener("beforeprint", () => rows.forEach((row) => row.shown && row.hide())); // pictures print
  addEventListener("afterprint", () => sight.disconnect() || rows.forEach((row, element) => sight.observe(element)));
  renderer.domElement.addEventListener("webglcontextlost", (event) => {
    event.preventDefault();
    rows.forEach((row) => row.shown && row.hide());
  });
  renderer.domElement.addEventListener("webglcontextrestored", () => {
    sight.disconnect();
    rows.forEach((row, element) => sight.observe(element));
  });
})();
