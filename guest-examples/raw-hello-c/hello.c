// Greets: a message on hello/# becomes "Hello, <payload>!".
//
// A module without any component tooling. It is programmed against the world `tidegate:raw` (wit/raw/raw.wit), bytes in and bytes
// out, and the bytes are JSON. The host calls `handle`, this file calls `host-call`; there is no generated code and no JSON library.

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

// ---- The raw world: three exports and one import ----

// Bytes as the host passes them: a list<u8> in linear memory.
typedef struct {
    char *at;
    size_t size;
} bytes;

// The answer is written to `answer`; its bytes are ours to free.
__attribute__((import_module("$root"), import_name("host-call")))
void host_call(const char *request, size_t size, bytes *answer);

// The host makes room here for whatever it hands over: events and answers of host-call.
__attribute__((export_name("cabi_realloc")))
void *cabi_realloc(void *old, size_t old_size, size_t align, size_t size) {
    (void)old_size;
    (void)align; // malloc aligns for every type, and the host only ever asks for bytes.
    void *made = realloc(old, size > 0 ? size : 1); // A list without bytes has an address too, and is freed like the others.
    if (made == NULL) {
        abort(); // The host names the limit that was passed.
    }
    return made;
}

static bytes answer;

// Called when the host has read the answer of `handle`.
__attribute__((export_name("cabi_post_handle")))
void cabi_post_handle(bytes *given) {
    free(given->at);
    *given = (bytes){0};
}

// ---- Reading JSON: no copy, no unescaping, never beyond `end` ----

// A part of the event, as it was written.
typedef struct {
    const char *at;
    const char *end;
} span;

static const span NOTHING = {0};

static bool is(span text, const char *word) {
    size_t size = strlen(word);
    return (size_t)(text.end - text.at) == size && memcmp(text.at, word, size) == 0;
}

static const char *skip_space(const char *at, const char *end) {
    while (at < end && (*at == ' ' || *at == '\t' || *at == '\n' || *at == '\r')) {
        at++;
    }
    return at;
}

// The end of the string that begins at `at` with a quote, or NULL.
static const char *skip_string(const char *at, const char *end) {
    for (at++; at < end; at++) {
        if (*at == '"') {
            return at + 1;
        }
        if (*at == '\\' && ++at == end) { // Whatever is escaped is no end.
            return NULL;
        }
    }
    return NULL;
}

// The end of the value that begins at `at`, or NULL. Brackets are counted, so that depth costs no stack.
static const char *skip_value(const char *at, const char *end) {
    size_t depth = 0;
    while (at < end) {
        char c = *at;
        if (c == '"') {
            at = skip_string(at, end);
            if (at == NULL) {
                return NULL;
            }
        } else if (c == '{' || c == '[') {
            depth++;
            at++;
        } else if (c == '}' || c == ']') {
            if (depth == 0) {
                return at; // The bracket around the value.
            }
            depth--;
            at++;
        } else if (depth == 0 && c == ',') {
            return at;
        } else {
            at++; // Numbers, true, false, null; inside brackets also commas and colons.
            continue;
        }
        if (depth == 0) {
            return at;
        }
    }
    return depth == 0 ? at : NULL;
}

// The value of `key` in `object`, or NOTHING. The host writes its keys without escapes.
static span member(span object, const char *key) {
    const char *at = skip_space(object.at, object.end), *end = object.end;
    if (at == end || *at != '{') {
        return NOTHING;
    }
    at = skip_space(at + 1, end);
    while (at < end && *at == '"') {
        const char *after = skip_string(at, end);
        if (after == NULL) {
            return NOTHING;
        }
        span name = {at + 1, after - 1};
        at = skip_space(after, end);
        if (at == end || *at != ':') {
            return NOTHING;
        }
        at = skip_space(at + 1, end);
        after = skip_value(at, end);
        if (after == NULL) {
            return NOTHING;
        }
        if (is(name, key)) {
            return (span){at, after};
        }
        at = skip_space(after, end);
        if (at < end && *at == ',') {
            at = skip_space(at + 1, end);
        }
    }
    return NOTHING;
}

// What stands between the quotes of a string, still escaped; NOTHING for any other value.
static span inside(span value) {
    if (value.end - value.at < 2 || value.at[0] != '"') {
        return NOTHING;
    }
    const char *after = skip_string(value.at, value.end);
    return after == NULL ? NOTHING : (span){value.at + 1, after - 1};
}

// ---- Writing JSON ----

// All pieces one after the other, in memory of their own.
static bytes join(const span *pieces, size_t count) {
    bytes all = {0};
    for (size_t i = 0; i < count; i++) {
        all.size += (size_t)(pieces[i].end - pieces[i].at);
    }
    all.at = cabi_realloc(NULL, 0, 1, all.size);
    char *to = all.at;
    for (size_t i = 0; i < count; i++) {
        size_t size = (size_t)(pieces[i].end - pieces[i].at);
        memcpy(to, pieces[i].at, size);
        to += size;
    }
    return all;
}

static span text(const char *literal) {
    return (span){literal, literal + strlen(literal)};
}

// ---- The module ----

static bytes ask(const char *request) {
    bytes given = {0};
    host_call(request, strlen(request), &given);
    return given;
}

static void warn_not_text(void) {
    bytes given = ask("{\"call\":\"log\",\"level\":\"warn\",\"message\":\"the payload is not text: it passes as it is\"}");
    free(given.at);
}

// What to do with one event: an answer, or none, which means: let it pass.
static bytes on_event(span event) {
    if (!is(inside(member(event, "hook")), "message.publish")) {
        return (bytes){0}; // `init`, the question for hooks, another hook.
    }
    span payload = inside(member(member(event, "message"), "payload"));
    if (payload.at == NULL) {
        // A payload that is not UTF-8 comes as "payload_base64".
        warn_not_text();
        return (bytes){0};
    }
    bytes given = ask("{\"call\":\"config.get\",\"key\":\"greeting\"}");
    span greeting = inside(member((span){given.at, given.at + given.size}, "ok"));
    if (greeting.at == NULL) {
        greeting = text("Hello"); // {"ok":null}: the manifest has no such key.
    }
    // Payload and greeting are JSON text already, so they go into the answer as they are.
    const span pieces[] = {
        text("{\"verdict\":\"replace\",\"message\":{\"payload\":\""), greeting, text(", "), payload, text("!\"}}"),
    };
    bytes replaced = join(pieces, sizeof pieces / sizeof pieces[0]);
    free(given.at);
    return replaced;
}

__attribute__((export_name("handle")))
bytes *handle(char *event, size_t size) {
    answer = on_event((span){event, event + size});
    free(event);
    return &answer;
}
