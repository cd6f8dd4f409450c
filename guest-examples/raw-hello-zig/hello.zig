//! Greets: a message on hello/# becomes "Hello, <payload>!".
//!
//! A module without any component tooling. It is programmed against the world `tidegate:raw` (wit/raw/raw.wit): bytes in and bytes
//! out, and the bytes are JSON. The host calls `handle`, this file calls `host-call`.

const std = @import("std");

// ---- The raw world: three exports and one import ----

/// A list of bytes as the host reads and writes it.
const Bytes = extern struct { at: [*]u8, size: usize };

extern "$root" fn @"host-call"(request: [*]const u8, size: usize, answer: *Bytes) void;

/// Everything of one event: what the host hands over, what is parsed, what is answered. It is forgotten with the answer.
var arena: std.heap.ArenaAllocator = .init(std.heap.wasm_allocator);
var answer: Bytes = undefined;

/// The host makes room here for whatever it hands over.
export fn cabi_realloc(old: ?[*]u8, old_size: usize, alignment: usize, size: usize) [*]u8 {
    _ = alignment; // The host only ever asks for bytes.
    const made = arena.allocator().alloc(u8, size) catch @panic("out of memory");
    if (old) |from| @memcpy(made[0..@min(size, old_size)], from);
    return made.ptr;
}

export fn handle(event: [*]const u8, size: usize) *const Bytes {
    const text = onEvent(arena.allocator(), event[0..size]) catch |err| failed(arena.allocator(), err);
    answer = .{ .at = @constCast(text.ptr), .size = text.len };
    return &answer;
}

/// Called when the host has read the answer of `handle`.
export fn cabi_post_handle(_: *const Bytes) void {
    _ = arena.reset(.{ .retain_with_limit = 1 << 20 });
}

/// An error goes to the module's `[on_error]` policy.
fn failed(allocator: std.mem.Allocator, err: anyerror) []const u8 {
    return json(allocator, .{ .@"error" = @errorName(err) }) catch @panic("out of memory");
}

fn json(allocator: std.mem.Allocator, value: anytype) ![]u8 {
    return std.json.Stringify.valueAlloc(allocator, value, .{});
}

/// Asks the host and reads its answer as a `T`.
fn ask(comptime T: type, allocator: std.mem.Allocator, request: anytype) !T {
    const text = try json(allocator, request);
    var given: Bytes = undefined;
    @"host-call"(text.ptr, text.len, &given);
    return std.json.parseFromSliceLeaky(T, allocator, given.at[0..given.size], .{ .ignore_unknown_fields = true });
}

// ---- The module ----

/// What this module reads of an event. A payload that is not UTF-8 comes as `payload_base64`, so `payload` stays null.
const Event = struct {
    hook: ?[]const u8 = null,
    message: ?struct { payload: ?[]const u8 = null } = null,
};

const Setting = struct { ok: ?[]const u8 = null };

/// What to do with one event: an answer, or nothing, which means: let it pass.
fn onEvent(allocator: std.mem.Allocator, text: []const u8) ![]const u8 {
    const event = try std.json.parseFromSliceLeaky(Event, allocator, text, .{ .ignore_unknown_fields = true });
    const hook = event.hook orelse return ""; // `init`, the question for hooks.
    if (!std.mem.eql(u8, hook, "message.publish")) return "";
    const message = event.message orelse return "";
    const payload = message.payload orelse {
        const line = .{ .call = "log", .level = "warn", .message = "the payload is not text: it passes as it is" };
        _ = try ask(std.json.Value, allocator, line);
        return "";
    };
    const setting = try ask(Setting, allocator, .{ .call = "config.get", .key = "greeting" });
    const greeting = try std.fmt.allocPrint(allocator, "{s}, {s}!", .{ setting.ok orelse "Hello", payload });
    return json(allocator, .{ .verdict = "replace", .message = .{ .payload = greeting } });
}
