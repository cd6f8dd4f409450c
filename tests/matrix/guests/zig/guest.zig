//! The guest of the matrix in Zig, of the world `raw`: does what the last level of the topic says.

const std = @import("std");

const Bytes = extern struct { at: [*]u8, size: usize };

extern "$root" fn @"host-call"(request: [*]const u8, size: usize, answer: *Bytes) void;

/// Everything of one event; forgotten with its answer.
var arena: std.heap.ArenaAllocator = .init(std.heap.wasm_allocator);
var answer: Bytes = undefined;

export fn cabi_realloc(old: ?[*]u8, old_size: usize, alignment: usize, size: usize) [*]u8 {
    _ = alignment;
    const made = arena.allocator().alloc(u8, size) catch @panic("out of memory");
    if (old) |from| @memcpy(made[0..@min(size, old_size)], from);
    return made.ptr;
}

export fn handle(event: [*]const u8, size: usize) *const Bytes {
    const allocator = arena.allocator();
    const text = onEvent(allocator, event[0..size]) catch |err|
        json(allocator, .{ .@"error" = @errorName(err) }) catch @panic("out of memory");
    answer = .{ .at = @constCast(text.ptr), .size = text.len };
    return &answer;
}

export fn cabi_post_handle(_: *const Bytes) void {
    _ = arena.reset(.{ .retain_with_limit = 1 << 20 });
}

fn json(allocator: std.mem.Allocator, value: anytype) ![]u8 {
    return std.json.Stringify.valueAlloc(allocator, value, .{});
}

fn ask(comptime T: type, allocator: std.mem.Allocator, request: anytype) !T {
    const text = try json(allocator, request);
    var given: Bytes = undefined;
    @"host-call"(text.ptr, text.len, &given);
    return std.json.parseFromSliceLeaky(T, allocator, given.at[0..given.size], .{ .ignore_unknown_fields = true });
}

const Message = struct { topic: []const u8 = "", payload: ?[]const u8 = null, payload_base64: ?[]const u8 = null };
const Event = struct { hook: ?[]const u8 = null, message: ?Message = null };
const Setting = struct { ok: ?[]const u8 = null };
const Done = struct { @"error": ?struct { message: []const u8 = "" } = null };
const Behaviour = enum { transform, drop, store, config, log, panic, loop, memory, bytes, large };

fn onEvent(allocator: std.mem.Allocator, text: []const u8) ![]const u8 {
    const event = try std.json.parseFromSliceLeaky(Event, allocator, text, .{ .ignore_unknown_fields = true });
    const message = event.message orelse return "";
    const prefix = "matrix/";
    if (!std.mem.startsWith(u8, message.topic, prefix)) return "";
    switch (std.meta.stringToEnum(Behaviour, message.topic[prefix.len..]) orelse return "") {
        .transform => {
            var value = try std.json.parseFromSliceLeaky(std.json.Value, allocator, message.payload orelse "", .{});
            if (value != .object) return error.PayloadIsNoJsonObject;
            try value.object.put(allocator, "enriched", .{ .bool = true });
            return replace(allocator, try json(allocator, value));
        },
        .drop => return json(allocator, .{ .verdict = "drop" }),
        .store => {
            const call = .{ .call = "storage.run", .connector = "fake:pool", .function = "on_message_publish" };
            const done = try ask(Done, allocator, call);
            return if (done.@"error" == null) "" else error.StoreRefused;
        },
        .config => {
            const setting = try ask(Setting, allocator, .{ .call = "config.get", .key = "unit" });
            return replace(allocator, setting.ok orelse return error.NoConfigValueUnit);
        },
        .log => {
            _ = try ask(Done, allocator, .{ .call = "log", .level = "info", .message = "a line of the guest" });
            return "";
        },
        .panic => @panic("told to panic"),
        .loop => while (true) asm volatile (""),
        .memory => while (true) {
            const block = std.heap.wasm_allocator.alloc(u8, 1 << 20) catch @panic("out of memory");
            @as(*volatile u8, &block[0]).* = 1;
        },
        .bytes => {
            const base64 = std.base64.standard;
            const encoded = message.payload_base64 orelse return error.PayloadIsText;
            const bytes = try allocator.alloc(u8, try base64.Decoder.calcSizeForSlice(encoded) + 1);
            try base64.Decoder.decode(bytes[0 .. bytes.len - 1], encoded);
            bytes[bytes.len - 1] = '!';
            const again = try allocator.alloc(u8, base64.Encoder.calcSize(bytes.len));
            return json(allocator, .{
                .verdict = "replace",
                .message = .{ .payload_base64 = base64.Encoder.encode(again, bytes) },
            });
        },
        .large => {
            const reversed = try allocator.dupe(u8, message.payload orelse return error.PayloadIsNoText);
            std.mem.reverse(u8, reversed);
            return replace(allocator, reversed);
        },
    }
}

fn replace(allocator: std.mem.Allocator, payload: []const u8) ![]const u8 {
    return json(allocator, .{ .verdict = "replace", .message = .{ .payload = payload } });
}
