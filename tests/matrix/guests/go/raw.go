package main

import (
	"encoding/json"
	"runtime"
	"runtime/debug"
	"unsafe"
)

// The world `raw` by hand: `handle`, `cabi_realloc` and `host-call`.
//
// Go's collector must not run inside cabi_realloc: it reads the clock, and a component may not call out while the host puts
// arguments into its memory. So it is switched off and run at the start of `handle`, where calling out is allowed, and what the
// host hands over goes into an arena that is no part of Go's heap.

// What an event may take of the arena; more falls back to the heap.
const arenaBytes = 4 << 20

// Memory that was handed over or answered since the collector ran last, after which it runs again.
const collectAfter = 1 << 20

var (
	arena   [arenaBytes]byte
	used    uintptr
	started bool
	// Handed over on the heap: kept from the collector until the event is done.
	large [][]byte
	// The answer, where the host reads it: an address and a size.
	list   [2]uint32
	output []byte
	grown  int
)

func init() {
	debug.SetGCPercent(-1)
	started = true
}

// The runtime's own allocator of memory: the adapter of preview 1 asks for its first page before Go has started.
//
//go:linkname sbrk runtime.sbrk
func sbrk(size uintptr) unsafe.Pointer

//go:wasmexport cabi_realloc
func cabiRealloc(old unsafe.Pointer, oldSize, align, size uint32) unsafe.Pointer {
	if !started {
		return sbrk(uintptr(size))
	}
	var made unsafe.Pointer
	size = max(size, 1)
	used = (used + uintptr(align) - 1) &^ (uintptr(align) - 1)
	if used+uintptr(size) <= arenaBytes {
		made = unsafe.Pointer(&arena[used])
		used += uintptr(size)
	} else {
		large = append(large, make([]byte, size))
		made = unsafe.Pointer(&large[len(large)-1][0])
	}
	if old != nil {
		copy(unsafe.Slice((*byte)(made), size), unsafe.Slice((*byte)(old), oldSize))
	}
	return made
}

//go:wasmimport $root host-call
func hostCall(request unsafe.Pointer, size uint32, answer unsafe.Pointer)

func call(request []byte) []byte {
	var given [2]uint32
	hostCall(unsafe.Pointer(&request[0]), uint32(len(request)), unsafe.Pointer(&given))
	return unsafe.Slice((*byte)(unsafe.Pointer(uintptr(given[0]))), given[1])
}

//go:wasmexport handle
func handle(at unsafe.Pointer, size uint32) unsafe.Pointer {
	var asked event
	var answered answer
	if grown += int(size) * 8; grown > collectAfter {
		runtime.GC()
		grown = 0
	}
	if err := json.Unmarshal(unsafe.Slice((*byte)(at), size), &asked); err != nil {
		answered = failed(err.Error())
	} else if asked.Hook != "" {
		answered = onEvent(asked)
	}
	encoded, err := json.Marshal(answered)
	if err != nil {
		panic(err)
	}
	output = encoded
	list = [2]uint32{uint32(uintptr(unsafe.Pointer(&output[0]))), uint32(len(output))}
	// Decoding has copied what it keeps.
	used, large = 0, nil
	return unsafe.Pointer(&list)
}
