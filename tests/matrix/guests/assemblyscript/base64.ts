// Base64 with padding (RFC 4648): the world `raw` carries bytes that are no text in it, and the language has none.

const ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

export function decode(text: string): Uint8Array {
  let padding = 0;
  while (padding < 2 && text.charAt(text.length - 1 - padding) == "=") padding++;
  const bytes = new Uint8Array((text.length / 4) * 3 - padding);
  let bits: u32 = 0;
  for (let i = 0, at = 0; i < text.length - padding; i++) {
    bits = (bits << 6) | ALPHABET.indexOf(text.charAt(i));
    // The first character of four completes no byte; the others complete one each.
    if (i % 4 != 0) bytes[at++] = <u8>(bits >> (6 - 2 * (i % 4)));
  }
  return bytes;
}

export function encode(bytes: Uint8Array): string {
  let text = "";
  for (let i = 0; i < bytes.length; i += 3) {
    const left = bytes.length - i;
    const bits: u32 =
      (<u32>bytes[i] << 16) | (left > 1 ? <u32>bytes[i + 1] << 8 : 0) | (left > 2 ? <u32>bytes[i + 2] : 0);
    text += ALPHABET.charAt((bits >> 18) & 63) + ALPHABET.charAt((bits >> 12) & 63);
    text += left > 1 ? ALPHABET.charAt((bits >> 6) & 63) : "=";
    text += left > 2 ? ALPHABET.charAt(bits & 63) : "=";
  }
  return text;
}
