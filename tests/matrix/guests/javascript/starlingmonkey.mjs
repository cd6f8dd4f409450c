// Makes a component of guest.js on StarlingMonkey: node starlingmonkey.mjs SOURCE WIT OUTPUT
import { componentize } from "@bytecodealliance/componentize-js";
import { writeFile } from "node:fs/promises";

const [sourcePath, witPath, output] = process.argv.slice(2);
// What is left out is an import less; this guest needs none of it.
const disableFeatures = ["clocks", "http", "random", "stdio", "fetch-event"];
const { component } = await componentize({ sourcePath, witPath, worldName: "matrix", disableFeatures });
await writeFile(output, component);
