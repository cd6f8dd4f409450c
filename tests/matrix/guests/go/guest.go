// The guest of the matrix in Go, of the world `raw`: does what the last level of the topic says.
package main

import (
	"encoding/json"
	"slices"
	"strings"
)

// The message of an event. A payload that is not UTF-8 comes as Base64, which encoding/json makes of []byte.
type message struct {
	Topic  string  `json:"topic,omitempty"`
	Text   *string `json:"payload,omitempty"`
	Binary []byte  `json:"payload_base64,omitempty"`
}

type event struct {
	Hook    string  `json:"hook"`
	Message message `json:"message"`
}

type answer struct {
	Verdict string   `json:"verdict,omitempty"`
	Message *message `json:"message,omitempty"`
	Error   string   `json:"error,omitempty"`
}

// What the host answers to a call.
type given struct {
	Ok    json.RawMessage `json:"ok"`
	Error *struct {
		Message string `json:"message"`
	} `json:"error"`
}

var (
	pass = answer{}
	kept [][]byte
)

func failed(why string) answer {
	return answer{Error: why}
}

func text(payload string) answer {
	return answer{Verdict: "replace", Message: &message{Text: &payload}}
}

func onEvent(event event) answer {
	payload := ""
	if event.Message.Text != nil {
		payload = *event.Message.Text
	}
	switch strings.TrimPrefix(event.Message.Topic, "matrix/") {
	case "transform":
		var object map[string]any
		if err := json.Unmarshal([]byte(payload), &object); err != nil {
			return failed(err.Error())
		}
		object["enriched"] = true
		changed, err := json.Marshal(object)
		if err != nil {
			return failed(err.Error())
		}
		return text(string(changed))
	case "drop":
		return answer{Verdict: "drop"}
	case "store":
		ask(map[string]any{"call": "storage.run", "connector": "fake:pool", "function": "on_message_publish"})
		return pass
	case "config":
		var unit string
		if err := json.Unmarshal(ask(map[string]any{"call": "config.get", "key": "unit"}), &unit); err != nil {
			return failed(err.Error())
		}
		return text(unit)
	case "log":
		ask(map[string]any{"call": "log", "level": "info", "message": "a line of the guest"})
		return pass
	case "panic":
		panic("told to panic")
	case "loop":
		for {
		}
	case "memory":
		for {
			kept = append(kept, make([]byte, 1<<20))
		}
	case "bytes":
		return answer{Verdict: "replace", Message: &message{Binary: append(event.Message.Binary, '!')}}
	case "large":
		bytes := []byte(payload)
		slices.Reverse(bytes)
		return text(string(bytes))
	default:
		return pass
	}
}

// Calls the host; an error it answers is a panic, as this guest asks only for what it may.
func ask(request map[string]any) json.RawMessage {
	encoded, err := json.Marshal(request)
	if err != nil {
		panic(err)
	}
	var answered given
	if err := json.Unmarshal(call(encoded), &answered); err != nil {
		panic(err)
	}
	if answered.Error != nil {
		panic(answered.Error.Message)
	}
	return answered.Ok
}

func main() {}
