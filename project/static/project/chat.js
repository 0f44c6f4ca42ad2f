// The chat page. Everything that others wrote goes into the page as text, never as HTML.

const { HeartbeatSocket } = await import(document.body.dataset.socketModule);

const LOOK_EVERY_MS = 2000;
const MOST_LINES = 300;
const MOST_BEATS = 3;
const MOST_GUESTS = 24;

const at = (id) => document.getElementById(id);
const guest = (channel) => channel.slice(-4);
const clock = () => new Date().toLocaleTimeString([], { hour12: false });

let socket = null;
let room = null;
let me = null; // the name of this connection's channel
let beats = 0;
let seenAt = null; // when Redis was last seen as a whole

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

// The conversation

function show(line) {
  const log = at("log");
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
  log.append(line);
  while (log.children.length > MOST_LINES) log.firstChild.remove();
  if (atEnd) log.scrollTop = log.scrollHeight;
}

function note(text, isBad = false) {
  show(element("p", isBad ? "note bad" : "note", `${clock()} ${text}`));
}

function said(message) {
  const isMine = message.from === me;
  const line = element("p", isMine ? "said mine" : "said");
  line.append(element("span", "by", isMine ? `you, ${clock()}` : `${guest(String(message.from))}, ${clock()}`));
  line.append(element("span", "text", message.text));
  show(line);
}

// The connection

function showState(state, detail) {
  const texts = {
    connecting: "connecting …",
    open: "connected",
    waiting: `lost, connecting again in ${((detail.delayMs ?? 0) / 1000).toFixed(1)} s`,
    closed: "closed",
  };
  at("state").dataset.state = state;
  at("state-text").textContent = texts[state];
  at("say").querySelector("button").disabled = state !== "open";
  if (state !== "open") forgetServer();
  if (state === "waiting" && detail.attempt === 1) note(`connection lost (${detail.code}): connecting again`, true);
}

// Until the next welcome nobody knows which worker it is; the one before it is not.
function forgetServer() {
  me = null;
  for (const id of ["channel", "worker", "layer"]) at(id).textContent = "–";
  at("channel").title = "";
  delete at("worker").dataset.pid;
}

function heard(event) {
  const message = JSON.parse(event.data);
  if (message.type === "welcome") {
    me = message.channel;
    at("channel").textContent = message.channel;
    at("channel").title = message.channel;
    at("worker").textContent = `process ${message.pid}`;
    at("worker").dataset.pid = message.pid;
  } else if (message.type === "worker") {
    const pid = at("worker").dataset.pid;
    at("worker").textContent = `${message.server}, pid ${pid} on ${message.host}`;
    at("layer").textContent = message.layer === "drop-in" ? "drop-in layer" : "stock layer";
    note(`in ${room}, served by ${message.server}, pid ${pid}`);
    look();
  } else if (message.type === "message") {
    said(message);
  } else {
    note(message.reason, true);
  }
}

function beat(ping) {
  beats += 1;
  at("beat-count").textContent = beats;
  at("beat-text").textContent = `asked and answered at ${clock()}`;
  at("beats").prepend(element("li", "", `${clock()} ${ping.id}`));
  while (at("beats").children.length > MOST_BEATS) at("beats").lastChild.remove();
  const heart = at("heart");
  heart.classList.remove("beat");
  void heart.offsetWidth; // so that the animation starts anew
  heart.classList.add("beat");
}

function join(name) {
  if (socket) socket.close();
  room = name;
  at("log").replaceChildren();
  at("chat-title").textContent = `Room ${room}`;
  history.replaceState(null, "", `#${room}`);
  socket = new HeartbeatSocket(`/ws/chat/${encodeURIComponent(room)}/`, {
    onmessage: heard,
    onping: beat,
    onstate: showState,
  });
}

// Who is where

async function look() {
  try {
    const answer = await fetch(`${document.body.dataset.who}?room=${encodeURIComponent(room)}`);
    if (answer.ok) showPresence(await answer.json());
  } catch {
    // The worker that was asked is gone. The next one is asked in a moment.
  }
}

function showPresence({ complete, rooms, processes, members, omitted }) {
  at("stale").hidden = complete;
  if (!complete) {
    at("stale").textContent = `Redis does not answer. ${seenAt ? `This is how it was at ${seenAt}.` : ""}`;
    return;
  }
  seenAt = clock();
  const known = new Map(rooms.map((one) => [one.name, one.members]));
  if (!known.has(room)) known.set(room, 0);
  at("rooms").replaceChildren(...[...known].map(([name, count]) => roomButton(name, count)));
  at("who-count").textContent = members.length + omitted;
  const byProcess = Map.groupBy ? Map.groupBy(members, (member) => member.process) : grouped(members);
  at("who").replaceChildren(
    ...processes.filter((one) => byProcess.has(one.process)).map((one) => worker(one, byProcess.get(one.process))),
  );
}

function grouped(members) {
  const groups = new Map();
  for (const member of members) groups.set(member.process, [...(groups.get(member.process) ?? []), member]);
  return groups;
}

function roomButton(name, count) {
  const button = element("button");
  button.type = "button";
  button.append(element("span", "", name), element("span", "count", count));
  if (name === room) button.setAttribute("aria-current", "true");
  button.addEventListener("click", () => join(name));
  const item = element("li");
  item.append(button);
  return item;
}

function worker(process, members) {
  const item = element("li");
  item.dataset.state = process.state;
  const head = element("div", "worker");
  const name = process.pid ? `pid ${process.pid} on ${process.host}` : `process ${process.process.slice(0, 8)}…`;
  const isMine = members.some((member) => member.channel === me);
  head.append(element("span", "dot"), element("span", "", isMine ? `${name} (yours)` : name));
  head.append(element("span", "state", `${process.state}, ${members.length}`));
  const guests = element("div", "guests");
  const ordered = [...members].sort((a, b) => (b.channel === me) - (a.channel === me));
  for (const member of ordered.slice(0, MOST_GUESTS)) {
    const isMe = member.channel === me;
    guests.append(element("span", isMe ? "guest me" : "guest", isMe ? `you ${guest(member.channel)}` : guest(member.channel)));
  }
  if (members.length > MOST_GUESTS) guests.append(element("span", "guest", `and ${members.length - MOST_GUESTS} more`));
  item.append(head, element("p", "evidence", process.evidence.join("; ")), guests);
  return item;
}

at("join").addEventListener("submit", (event) => {
  event.preventDefault();
  join(at("room").value);
  at("room").value = "";
});
at("say").addEventListener("submit", (event) => {
  event.preventDefault();
  if (at("text").value && socket.send(JSON.stringify({ text: at("text").value }))) at("text").value = "";
});

const wanted = decodeURIComponent(location.hash.slice(1));
join(/^[A-Za-z0-9_.-]{1,80}$/.test(wanted) ? wanted : "lobby");
setInterval(() => document.visibilityState === "visible" && look(), LOOK_EVERY_MS);
