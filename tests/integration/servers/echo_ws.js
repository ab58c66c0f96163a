// An echo server by Node's ws, in a process of its own; ends when its standard input does.
"use strict";

const { WebSocketServer } = require("ws");

const options = { host: "127.0.0.1", port: Number(process.argv[2]), maxPayload: 64 * 2 ** 20 };
const server = new WebSocketServer(options, () => console.log("ready", server.address().port));
server.on("connection", (socket) => {
  socket.on("message", (data, isBinary) => socket.send(data, { binary: isBinary }));
  socket.on("error", () => {}); // a reset; 'close' follows
});
process.stdin.on("end", () => process.exit(0)).resume();
