// One page of the study: videos first, then answers, which stay on the page until the server has them.
"use strict";

const LEAST_PLAYED = 0.95; // the server asks for a little less
const PATIENCE_SECONDS = 30;

const form = document.getElementById("page-form");
const videos = [...form.querySelectorAll("video")];
const questions = document.getElementById("questions");
const next = document.getElementById("next");
const skip = document.getElementById("does-not-play");
const status = document.getElementById("status");
const problem = document.getElementById("problem");
const opened = performance.now();

function playedShare(video) {
  if (!(video.duration > 0)) return 0;
  let seconds = 0;
  for (let part = 0; part < video.played.length; part++) seconds += video.played.end(part) - video.played.start(part);
  return Math.min(1, seconds / video.duration);
}

// A slow machine drops the first moments of what it plays: who let it run to its end without a jump has seen it.
const reached = new Map(videos.map((video) => [video, 0]));
const jumped = new Set();

function noteJump(video) {
  if (video.currentTime > reached.get(video) + 0.5) jumped.add(video);
  else if (video.currentTime < 0.1) jumped.delete(video);
}

function note(video, hasEnded = false) {
  if (!video.seeking) reached.set(video, video.currentTime);
  const share = hasEnded && !jumped.has(video) ? 1 : playedShare(video);
  const field = form.elements[`played-${video.dataset.clip}`];
  field.value = Math.max(Number(field.value), share).toFixed(3);
  if (!questions.disabled) return;
  const isDone = (other) => Number(form.elements[`played-${other.dataset.clip}`].value) >= LEAST_PLAYED;
  if (videos.every(isDone)) {
    questions.disabled = next.disabled = false;
    skip.hidden = true;
    status.textContent = form.dataset.canAnswer;
  }
}

function start(video) {
  if (video.duration - video.currentTime < 0.05) video.currentTime = 0; // not every browser does so after a jump there
  video.play();
}

function offerSkip() {
  if (questions.disabled) skip.hidden = false;
}

for (const video of videos) {
  video.addEventListener("seeking", () => noteJump(video));
  for (const name of ["timeupdate", "pause"]) video.addEventListener(name, () => note(video));
  video.addEventListener("ended", () => note(video, true));
  video.addEventListener("play", () => {
    for (const other of videos) if (other !== video) other.pause();
  });
  video.addEventListener("error", offerSkip);
  if (video.error) offerSkip();
}
// Players of a small size have no such button of their own; an iPhone has its own word for it.
for (const button of form.querySelectorAll(".enlarge")) {
  const video = button.closest("figure").querySelector("video");
  const enlarge = video.requestFullscreen ?? video.webkitEnterFullscreen;
  if (!enlarge) continue;
  button.hidden = false;
  button.addEventListener("click", () => {
    enlarge.call(video);
    start(video);
  });
}
setTimeout(() => {
  if (videos.some((video) => video.readyState < HTMLMediaElement.HAVE_CURRENT_DATA)) offerSkip();
}, PATIENCE_SECONDS * 1000);

let isSending = false;

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  if (isSending) return;
  isSending = true;
  form.elements.seconds.value = ((performance.now() - opened) / 1000).toFixed(1);
  const body = new URLSearchParams(new FormData(form));
  if (event.submitter === skip) body.set(skip.name, skip.value);
  problem.textContent = "";
  try {
    const response = await fetch(form.action, { method: "POST", body, redirect: "manual" });
    if (response.type === "opaqueredirect") {
      location.reload(); // the address shows the next page now
      return;
    }
    problem.textContent = response.status === 422 ? form.dataset.answerAll : form.dataset.notSaved;
  } catch {
    problem.textContent = form.dataset.notSaved;
  }
  isSending = false;
});

function firstOpenScale() {
  const scales = [...questions.querySelectorAll(".scale")];
  return document.activeElement.closest?.(".scale") ?? scales.find((scale) => !scale.querySelector(":checked"));
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  const target = event.target;
  if (event.key === " " && !target.closest("button, video, label, input")) {
    event.preventDefault();
    const video = videos.find((one) => !one.paused) ?? videos.find((one) => playedShare(one) < LEAST_PLAYED) ?? videos[0];
    if (video.paused) start(video);
    else video.pause();
  } else if (/^[1-9]$/.test(event.key) && !questions.disabled) {
    const scale = firstOpenScale();
    const choice = scale?.querySelectorAll("input[type=radio]")[Number(event.key) - 1];
    if (!choice) return;
    choice.checked = true;
    const open = [...questions.querySelectorAll(".scale")].find((other) => !other.querySelector(":checked"));
    (open?.querySelector("input[type=radio]") ?? next).focus();
  } else if (event.key === "Enter" && !target.closest("button, video") && !next.disabled) {
    event.preventDefault();
    form.requestSubmit(next);
  }
});
