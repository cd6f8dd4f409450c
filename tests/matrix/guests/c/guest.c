// The guest of the matrix in C: does what the last level of the topic says. Built twice, by clang with wasi-libc and by `zig cc`.

#include <stdlib.h>
#include <string.h>

#include "bindings/matrix.h"

typedef exports_tidegate_hooks_message_publish_message_t message_t;
typedef exports_tidegate_hooks_message_publish_verdict_t verdict_t;
typedef exports_tidegate_hooks_message_publish_hook_error_t failure_t;

static bool asks_for(const message_t *message, const char *behaviour) {
    static const char PREFIX[] = "matrix/";
    size_t prefix = sizeof PREFIX - 1, rest = strlen(behaviour);
    return message->topic.len == prefix + rest && memcmp(message->topic.ptr, PREFIX, prefix) == 0 &&
           memcmp(message->topic.ptr + prefix, behaviour, rest) == 0;
}

// Whether the bytes are braces and brackets in pairs outside strings, in one object: not a full parser, but what splicing needs.
static bool is_object(const uint8_t *at, size_t size) {
    size_t depth = 0;
    bool quoted = false;
    if (size < 2 || at[0] != '{' || at[size - 1] != '}') {
        return false;
    }
    for (size_t i = 0; i < size; i++) {
        if (quoted) {
            if (at[i] == '\\') {
                i++;
            } else if (at[i] == '"') {
                quoted = false;
            }
        } else if (at[i] == '"') {
            quoted = true;
        } else if (at[i] == '{' || at[i] == '[') {
            depth++;
        } else if (at[i] == '}' || at[i] == ']') {
            depth--; // Never below 0: the first byte opened, and the loop ends where it is closed.
            if (depth == 0) {
                return i == size - 1;
            }
        }
    }
    return false;
}

// Makes the payload `more` bytes longer; gives where they go.
static uint8_t *extend(message_t *message, size_t more) {
    uint8_t *longer = realloc(message->payload.ptr, message->payload.len + more);
    if (longer == NULL) {
        abort();
    }
    message->payload.ptr = longer;
    message->payload.len += more;
    return longer + message->payload.len - more;
}

static bool transform(message_t *message, failure_t *failure) {
    static const char FIELD[] = ",\"enriched\":true}";
    if (!is_object(message->payload.ptr, message->payload.len)) {
        failure->tag = TIDEGATE_HOOKS_TYPES_HOOK_ERROR_FAILED;
        matrix_string_dup(&failure->val.failed, "the payload is no JSON object");
        return false;
    }
    extend(message, sizeof FIELD - 2);
    memcpy(message->payload.ptr + message->payload.len - (sizeof FIELD - 1), FIELD, sizeof FIELD - 1);
    return true;
}

static bool store(uint64_t event, failure_t *failure) {
    matrix_string_t connector, function;
    tidegate_storage_actions_error_t error;
    matrix_string_set(&connector, "fake:pool");
    matrix_string_set(&function, "on_message_publish");
    if (tidegate_storage_actions_run(event, &connector, &function, NULL, &error)) {
        return true;
    }
    tidegate_storage_actions_error_free(&error);
    failure->tag = TIDEGATE_HOOKS_TYPES_HOOK_ERROR_FAILED;
    matrix_string_dup(&failure->val.failed, "the store refused");
    return false;
}

static bool configured(message_t *message, failure_t *failure) {
    matrix_string_t key;
    matrix_option_string_t value;
    wasi_config_store_error_t error;
    matrix_string_set(&key, "unit");
    if (wasi_config_store_get(&key, &value, &error) && value.is_some) {
        matrix_list_u8_free(&message->payload);
        message->payload = (matrix_list_u8_t){value.val.ptr, value.val.len};
        return true;
    }
    failure->tag = TIDEGATE_HOOKS_TYPES_HOOK_ERROR_FAILED;
    matrix_string_dup(&failure->val.failed, "no config value unit");
    return false;
}

static void say(const char *text) {
    matrix_string_t context, line;
    matrix_string_set(&context, "matrix");
    matrix_string_set(&line, text);
    wasi_logging_logging_log(WASI_LOGGING_LOGGING_LEVEL_INFO, &context, &line);
}

static void reverse(uint8_t *at, size_t size) {
    for (size_t i = 0; i < size / 2; i++) {
        uint8_t swapped = at[i];
        at[i] = at[size - 1 - i];
        at[size - 1 - i] = swapped;
    }
}

static _Noreturn void allocate_for_ever(void) {
    for (;;) {
        volatile char *block = malloc(1 << 20);
        if (block == NULL) {
            abort();
        }
        *block = 1;
    }
}

static _Noreturn void loop_for_ever(void) {
    for (;;) {
        __asm__ volatile("");
    }
}

bool exports_tidegate_hooks_message_publish_on_message_publish(
    uint64_t event, exports_tidegate_hooks_message_publish_client_t *client, message_t *message, verdict_t *verdict, failure_t *failure) {
    bool done = true;
    if (client != NULL) {
        exports_tidegate_hooks_message_publish_client_free(client);
    }
    verdict->tag = TIDEGATE_HOOKS_TYPES_VERDICT_REPLACE;
    if (asks_for(message, "transform")) {
        done = transform(message, failure);
    } else if (asks_for(message, "config")) {
        done = configured(message, failure);
    } else if (asks_for(message, "bytes")) {
        *extend(message, 1) = '!';
    } else if (asks_for(message, "large")) {
        reverse(message->payload.ptr, message->payload.len);
    } else if (asks_for(message, "drop")) {
        verdict->tag = TIDEGATE_HOOKS_TYPES_VERDICT_DROP;
    } else if (asks_for(message, "panic")) {
        abort();
    } else if (asks_for(message, "loop")) {
        loop_for_ever();
    } else if (asks_for(message, "memory")) {
        allocate_for_ever();
    } else {
        verdict->tag = TIDEGATE_HOOKS_TYPES_VERDICT_PASS;
        if (asks_for(message, "store")) {
            done = store(event, failure);
        } else if (asks_for(message, "log")) {
            say("a line of the guest");
        }
    }
    if (done && verdict->tag == TIDEGATE_HOOKS_TYPES_VERDICT_REPLACE) {
        verdict->val.replace = *message; // Given away: freed when the host has read it.
    } else {
        exports_tidegate_hooks_message_publish_message_free(message);
    }
    return done;
}
