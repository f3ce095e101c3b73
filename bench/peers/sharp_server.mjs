// Bare sharp: node's own HTTP server, originals from a directory, no cache. The minimum cost of any server built on
// sharp. usage: node sharp_server.mjs PORT DIRECTORY; GET /{fit}/{width}/{height}/{quality}/{file}
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { basename, join } from "node:path";
import sharp from "sharp";

const [port, directory] = process.argv.slice(2);

async function answer(request, response) {
  const [, fit, width, height, quality, file] = request.url.split("/");
  const original = await readFile(join(directory, basename(file)));
  const thumbnail = await sharp(original)
    .resize(Number(width), Number(height), { fit })
    .jpeg({ quality: Number(quality) })
    .toBuffer();
  response.writeHead(200, { "Content-Type": "image/jpeg", "Content-Length": thumbnail.length });
  response.end(thumbnail);
}

createServer((request, response) => {
  answer(request, response).catch((error) => {
    response.writeHead(500);
    response.end(String(error));
  });
}).listen(Number(port), "127.0.0.1");
