// The form that sends a job: checked while it is filled in, files dropped anywhere, and the picture that was chosen.

import { byId, setText } from "./dom.js";

/** Milliseconds without typing after which the form is checked. */
const PAUSE_MS = 600;
const PREVIEW_PX = 160;

let form, timer, asking;

export function wireSending() {
  form = document.querySelector("form.new-job");
  if (!form) return;
  form.addEventListener("input", checkSoon);
  form.addEventListener("change", (event) => { if (event.target.type === "file") showPicture(event.target); });
  document.addEventListener("dragover", (event) => { if (event.dataTransfer.types.includes("Files")) event.preventDefault(); });
  document.addEventListener("drop", onDrop);
  if (form.elements.graph || form.elements.prompt?.value) checkSoon();
}

/** A file goes to the field that it is dropped on, else to the first one of the form. */
function onDrop(event) {
  const [file] = event.dataTransfer.files, fields = [...form.querySelectorAll("input[type=file]")];
  if (!file || !fields.length) return;
  event.preventDefault();
  const field = fields.find((each) => each.parentElement.contains(event.target)) ?? fields[0];
  const one = new DataTransfer();
  one.items.add(file);
  field.files = one.files;
  field.focus();
  for (const kind of ["input", "change"]) field.dispatchEvent(new Event(kind, { bubbles: true }));
}

// Drawn, and not loaded: the page's policy lets pictures come from its server only.
async function showPicture(field) {
  field.parentElement.querySelector("canvas")?.remove();
  const [file] = field.files;
  if (!file?.type.startsWith("image/")) return;
  const picture = await createImageBitmap(file).catch(() => null);
  if (!picture || field.files[0] !== file) return;
  const canvas = document.createElement("canvas"), scale = Math.min(1, PREVIEW_PX / Math.max(picture.width, picture.height));
  canvas.width = Math.max(1, picture.width * scale);
  canvas.height = Math.max(1, picture.height * scale);
  canvas.getContext("2d").drawImage(picture, 0, 0, canvas.width, canvas.height);
  canvas.role = "img";
  canvas.ariaLabel = `${picture.width} × ${picture.height}`;
  field.after(canvas);
}

function checkSoon() {
  clearTimeout(timer);
  asking?.abort();
  if (form.dataset.checked !== undefined) timer = setTimeout(check, PAUSE_MS);
}

async function check() {
  const fields = new FormData(form);
  // Files wait until the form is sent.
  for (const [name, value] of [...fields]) if (value instanceof File) fields.set(name, value.name ? "chosen" : "");
  fields.set("do", "check");
  asking = new AbortController();
  try {
    const answer = await fetch(form.getAttribute("action"), { method: "POST", body: fields, signal: asking.signal });
    if (answer.ok) show(await answer.json());
  } catch { /* The form is checked again when it is sent. */ }
}

function show({ faults, said }) {
  setText(byId("foreseen"), said);
  for (const field of form.querySelectorAll("[id]:is(input, select, textarea):not([type=file])")) {
    // What is still empty is not wrong yet.
    const told = field.value ? faults[field.id]?.join(" ") ?? "" : "", id = `${field.id}-fault`;
    let fault = byId(id);
    if (!fault && !told) continue;
    if (!fault) {
      fault = Object.assign(document.createElement("small"), { id, className: "bad" });
      field.after(fault);
    }
    setText(fault, told);
    const others = (field.getAttribute("aria-describedby") ?? "").split(" ").filter((each) => each && each !== id);
    field.setAttribute("aria-describedby", [...others, ...(told ? [id] : [])].join(" "));
    if (told) field.setAttribute("aria-invalid", "true");
    else field.removeAttribute("aria-invalid");
  }
}
