// Short ways to the elements that several modules need.

export const byId = (id) => document.getElementById(id);
/** What stands before every address of this service: "" unless a proxy shows it under a path. */
export const root = document.documentElement.dataset.root ?? "";
export const main = () => byId("main");

/** Milliseconds between two refreshes of this page while events are pushed; 0 or NaN for a page that is not live. */
export const pollMs = () => Number(main()?.dataset.poll) * 1000;

export const rows = () => [...document.querySelectorAll("#rows li")];
export const checkboxes = () => [...document.querySelectorAll(".row input[name=job]")];

export const isFirstPage = () => main().dataset.first === "yes";

/** Sets the text only if it differs, so that screen readers do not announce it again. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
