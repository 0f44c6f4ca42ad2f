/* A websocket that answers the pings of ops.consumers.HeartbeatMixin and connects again when it was lost.
 *
 *   import { HeartbeatSocket } from "{% static 'ops/heartbeat-socket.js' %}";
 *   const socket = new HeartbeatSocket("/ws/chat/lobby/", {
 *     onopen() {}, onmessage(event) {}, onstate(state, detail) {}, onping(ping) {},
 *   });
 *   socket.send("text");  // false where it is not open: nothing is kept for later
 *   socket.close();       // on purpose: it does not come back
 *
 * States: "connecting" -> "open" -> "waiting" -> "connecting" -> ... and "closed" once close() was called.
 * detail of "waiting": {delayMs, attempt, code, reason}.
 *
 * It waits a random time before it connects again, up to a limit that doubles with each attempt ("full jitter": after
 * the loss of a server its clients come back spread out). A connection that lasted is the end of such a series.
 *
 * It takes the connection for dead where a ping has announced the next one and none came: a browser by itself would
 * notice after minutes, or never. Answers do not depend on timers, which browsers slow down in hidden tabs.
 */

const PING = "ops.ping";
const PONG = "ops.pong";
const MAX_PING_LENGTH = 300;

const DEFAULTS = {
  protocols: [],
  minDelayMs: 500, // the limit of the first wait
  maxDelayMs: 30000, // the limit that no wait exceeds
  connectWithinMs: 10000, // a connection attempt that takes longer is given up
  lastedMs: 5000, // a connection that was open for so long ends a series of attempts
  reconnect: (closeEvent) => true, // false: do not come back after this close, given {code, reason}
  onopen: () => {},
  onmessage: (event) => {}, // every message but pings
  onping: (ping) => {}, // {id, next_within}, when it has been answered
  onstate: (state, detail) => {},
};

export class HeartbeatSocket {
  constructor(url, options = {}) {
    this.url = new URL(url, location.href.replace(/^http/, "ws")).href.replace(/^http/, "ws");
    this.options = { ...DEFAULTS, ...options };
    this.state = null;
    this.attempt = 0;
    this._socket = null;
    this._timer = null;
    this._openedAt = null;
    this._leave = () => this._suspend();
    this._return = () => {
      // Somebody looks, or the network is back: no reason to wait any longer.
      if (this.state === "waiting" && document.visibilityState === "visible") this._connect();
    };
    window.addEventListener("pagehide", this._leave);
    for (const event of ["pageshow", "online"]) window.addEventListener(event, this._return);
    document.addEventListener("visibilitychange", this._return);
    this._connect();
  }

  send(data) {
    if (this.state !== "open" || this._socket.readyState !== WebSocket.OPEN) return false;
    this._socket.send(data);
    return true;
  }

  close(code = 1000, reason = "") {
    if (this.state === "closed") return;
    window.removeEventListener("pagehide", this._leave);
    for (const event of ["pageshow", "online"]) window.removeEventListener(event, this._return);
    document.removeEventListener("visibilitychange", this._return);
    this._drop(code, reason);
    this._enter("closed", { code, reason });
  }

  _connect() {
    this._drop();
    this._enter("connecting", { attempt: this.attempt });
    if (this.state !== "connecting") return; // closed by who was told
    const socket = new WebSocket(this.url, this.options.protocols);
    this._socket = socket;
    this._wait(this.options.connectWithinMs, () => this._lost(1006, "no connection in time"));
    socket.onopen = () => {
      this._clear();
      this._openedAt = performance.now();
      this._enter("open");
      this._call("onopen");
    };
    socket.onmessage = (event) => this._heard(event);
    socket.onclose = (event) => this._lost(event.code, event.reason);
  }

  _heard(event) {
    const ping = parsePing(event.data);
    if (!ping) return this._call("onmessage", event);
    if (this._socket.readyState === WebSocket.OPEN) this._socket.send(JSON.stringify({ type: PONG, id: ping.id }));
    if (ping.next_within > 0) {
      this._wait(ping.next_within * 1000, () => this._lost(1006, "no ping in time"));
    }
    return this._call("onping", ping);
  }

  _lost(code, reason) {
    this._drop();
    if (this._openedAt !== null && performance.now() - this._openedAt >= this.options.lastedMs) this.attempt = 0;
    this._openedAt = null;
    if (!this.options.reconnect({ code, reason })) return this.close(code, reason);
    const limit = Math.min(this.options.maxDelayMs, this.options.minDelayMs * 2 ** this.attempt);
    const delayMs = Math.round(Math.random() * limit);
    this.attempt += 1;
    this._wait(delayMs, () => this._connect());
    return this._enter("waiting", { delayMs, attempt: this.attempt, code, reason });
  }

  _suspend() {
    // The page is left. It may come back out of the browser's cache of pages, and then connects again.
    if (this.state === "closed") return;
    this._drop(1000, "page left");
    this._openedAt = null;
    this._enter("waiting", { delayMs: null, attempt: this.attempt, code: 1001, reason: "page left" });
  }

  _drop(code, reason) {
    this._clear();
    const socket = this._socket;
    if (!socket) return;
    this._socket = null;
    // A connection that is dead would only report its end much later.
    socket.onopen = socket.onmessage = socket.onclose = null;
    if (socket.readyState <= WebSocket.OPEN) socket.close(...(code ? [validCode(code), reason] : []));
  }

  _wait(ms, then) {
    this._clear();
    this._timer = setTimeout(then, ms);
  }

  _clear() {
    clearTimeout(this._timer);
    this._timer = null;
  }

  _enter(state, detail = {}) {
    this.state = state;
    this._call("onstate", state, detail);
  }

  _call(hook, ...args) {
    try {
      this.options[hook](...args);
    } catch (error) {
      // What goes wrong in the page must not end the connection.
      reportError(error);
    }
  }
}

function parsePing(data) {
  if (typeof data !== "string" || data.length > MAX_PING_LENGTH || !data.includes(PING)) return null;
  try {
    const content = JSON.parse(data);
    return content && content.type === PING && typeof content.id === "string" ? content : null;
  } catch {
    return null;
  }
}

function validCode(code) {
  // All that a browser lets a page send.
  return code === 1000 || (code >= 3000 && code <= 4999) ? code : 1000;
}
