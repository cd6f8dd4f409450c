//! What each metric means, for the `# HELP` lines of `/metrics`.
//!
//! The stages name and count; that the names end up in Prometheus is this crate's business.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

use crate::access;
use crate::control::{MISTAKES, REFUSED};
use crate::logging::PANICS;
use crate::reload;

/// Counters with what they count.
const COUNTERS: &[(&str, &str)] = &[
    (MISTAKES, "Requests to the control socket that were refused"),
    (REFUSED, "Connections to the control socket closed because another user made them"),
    (
        reload::RELOADS,
        "Configurations of back ends that were put in place or refused while serving, by result",
    ),
    (
        access::LOGINS,
        "Logins with a user name by result; damped: slowed down after too many wrong passwords; busy: refused because too many waited",
    ),
    (access::RELOADS, "Files of users and rules that were read again, by file and result"),
    (PANICS, "Panics of tasks; each ended its task and nothing else"),
    ("tidegate_broker_accept_errors_total", "Sockets that could not be accepted"),
    ("tidegate_broker_accepted_total", "Connections accepted"),
    (
        "tidegate_broker_accepts_delayed_total",
        "Times that a listener waited because connections came faster than they are accepted",
    ),
    ("tidegate_broker_backlog_errors_total", "Stored messages that could not be read for a subscriber"),
    ("tidegate_broker_backlog_pages_total", "Pages of stored messages read for subscribers"),
    (
        "tidegate_broker_certificate_reloads_total",
        "Changed certificate files that were taken or refused, by listener and result",
    ),
    ("tidegate_broker_connect_timeouts_total", "Connections closed because CONNECT did not come in time"),
    (
        "tidegate_broker_connections_turned_away_total",
        "Connections closed before their client was connected, by reason",
    ),
    ("tidegate_broker_connects_refused_total", "CONNECT answered with an error, by reason code"),
    ("tidegate_broker_disconnects_total", "Connections that ended, by reason"),
    ("tidegate_broker_dropped_total", "Messages that did not go on, by reason"),
    ("tidegate_broker_gate_refused_total", "What the password and ACL files refused to clients, by action"),
    ("tidegate_broker_limited_total", "Times that a client has reached a limit, by limit"),
    ("tidegate_broker_malformed_total", "Connections ended because of what the client sent, by reason code"),
    ("tidegate_broker_messages_acked_total", "Deliveries acknowledged by subscribers"),
    ("tidegate_broker_messages_received_total", "PUBLISH received, by QoS"),
    ("tidegate_broker_messages_redelivered_total", "Deliveries sent again after a reconnect"),
    ("tidegate_broker_messages_sent_total", "PUBLISH sent, by QoS"),
    ("tidegate_broker_received_bytes_total", "Bytes received from clients"),
    (
        "tidegate_broker_reconnects_damped_total",
        "Connections of client ids that connect too often, by result: delayed or refused",
    ),
    (
        "tidegate_broker_refused_total",
        "What clients got no leave to do, by the hook that was asked and by reason",
    ),
    ("tidegate_broker_rejected_total", "Messages refused to their publisher, by reason"),
    ("tidegate_broker_sent_bytes_total", "Bytes sent to clients"),
    ("tidegate_broker_takeovers_total", "Sessions taken over by a newer connection"),
    (
        "tidegate_broker_websocket_violations_total",
        "WebSocket connections ended because of a frame that may not be",
    ),
    ("tidegate_broker_wills_total", "Wills published"),
    ("tidegate_module_artefacts_damaged_total", "Cached artefacts that were damaged and made again"),
    ("tidegate_module_calls_total", "Calls of a module"),
    ("tidegate_module_circuit_opened_total", "Times that the circuit of a module has opened"),
    (
        "tidegate_module_dead_letters_total",
        "Dead letters about events that a module could not handle, by result",
    ),
    (
        "tidegate_module_dead_letters_unpublished_total",
        "Dead letters that were kept and could not be published",
    ),
    ("tidegate_module_errors_total", "Calls of a module that gave no answer, by kind"),
    ("tidegate_module_http_requests_total", "HTTP requests of a module, by result"),
    ("tidegate_module_log_lines_dropped_total", "Log lines of a module above its rate"),
    ("tidegate_module_poison_total", "Messages that became dead letters because they kept failing"),
    ("tidegate_module_publishes_denied_total", "Messages of a module above its limit for one event"),
    ("tidegate_module_reloads_total", "Versions of a module looked at, by result"),
    ("tidegate_module_retries_total", "Calls of a module made again after an error"),
    (
        "tidegate_module_skipped_total",
        "Events that went to a module's error policy while its circuit was open",
    ),
    ("tidegate_module_state_lost_total", "States of modules that no instance has any more"),
    ("tidegate_module_storage_ops_denied_total", "Storage calls of a module above its limit for one event"),
    ("tidegate_module_trials_total", "Trials of new versions of a module, by result"),
    (
        "tidegate_module_watch_gaps_total",
        "Changes of the modules' directories that may have been missed, by reason",
    ),
    ("tidegate_server_sessions_bytes_total", "Bytes written of sessions, retained messages and wills"),
    (
        "tidegate_server_sessions_changes_total",
        "Changes of sessions, retained messages and wills that were to be kept",
    ),
    (
        "tidegate_server_sessions_commits_total",
        "Commits with records of sessions, retained messages or wills",
    ),
    (
        "tidegate_server_sessions_lost_total",
        "Changes of sessions that are not kept because too many could not be written before",
    ),
    (
        "tidegate_server_sessions_records_total",
        "Records of sessions written or removed; less than changes, as what comes and goes at once is never written",
    ),
    (
        "tidegate_server_state_changes_total",
        "Key-value pairs of modules set or deleted in the embedded state",
    ),
    ("tidegate_server_state_commits_total", "Commits of the embedded state"),
    ("tidegate_server_state_failed_total", "Changes of the embedded state that the disk did not take"),
    ("tidegate_server_state_quota_denied_total", "Changes of the embedded state above a module's share"),
    ("tidegate_store_buffer_in_total", "Operations that went to the buffer on disk: their database was down"),
    ("tidegate_store_buffer_out_total", "Operations that came out of the buffer and are decided"),
    (
        "tidegate_store_buffer_refused_total",
        "Batches for which the buffer had no room or no disk: they waited in memory",
    ),
    ("tidegate_store_errors_total", "Calls that a connector's database did not answer, or refused"),
    ("tidegate_store_operations_total", "Operations of a connector, by result"),
    ("tidegate_store_retries_total", "Writes and reads of a connector made again"),
    ("tidegate_store_skipped_rows_total", "Stored rows that cannot be used"),
];

/// Gauges with what they show.
const GAUGES: &[(&str, &str)] = &[
    (access::REFUSED, "1 while a file of users or rules is refused and what it said before is in use"),
    (reload::REFUSED, "1 while the files hold a configuration of back ends that was refused"),
    (
        "tidegate_broker_certificate_expires_seconds",
        "When a listener's certificate ends, seconds since the epoch",
    ),
    ("tidegate_broker_connections", "Open connections"),
    ("tidegate_broker_handshakes", "Open connections whose CONNECT has not come yet"),
    (
        "tidegate_broker_queued_bytes",
        "Memory of the messages that wait for clients, or were sent and not acknowledged",
    ),
    ("tidegate_broker_retained_messages", "Retained messages"),
    ("tidegate_broker_sessions", "Sessions, connected or not"),
    ("tidegate_build_info", "Always 1; the labels say which build runs as which node"),
    (
        "tidegate_module_circuit_open",
        "Versions of a module that serve and are not called because they keep failing",
    ),
    ("tidegate_module_mandatory_failed", "Mandatory modules whose newest version does not serve"),
    ("tidegate_server_sessions_deliveries", "Messages kept on disk for sessions"),
    ("tidegate_server_sessions_kept", "Sessions kept on disk"),
    (
        "tidegate_server_sessions_unwritten",
        "Records of sessions that a failing disk has not taken yet, and keeps being offered",
    ),
    ("tidegate_store_buffered", "Operations in the buffer on disk"),
    ("tidegate_store_buffered_bytes", "Their bytes"),
    ("tidegate_store_inflight", "Operations in the batches that are being written"),
    ("tidegate_store_queued", "Operations that wait for a batch"),
    ("tidegate_store_up", "1 when the last write succeeded, 0 while the database is down"),
];

/// Histograms with what they measure.
const HISTOGRAMS: &[(&str, Unit, &str)] = &[
    ("tidegate_module_call_seconds", Unit::Seconds, "Time of a module's call, waiting included"),
    (
        "tidegate_module_load_seconds",
        Unit::Seconds,
        "Time from reading a module's file to its first instance",
    ),
    (
        "tidegate_module_swap_seconds",
        Unit::Seconds,
        "Time from the change of a file to its new version serving",
    ),
    (
        "tidegate_server_sessions_commit_seconds",
        Unit::Seconds,
        "Time of a commit with records of sessions, the disk's included",
    ),
    ("tidegate_store_batch_size", Unit::Count, "Operations in a batch"),
];

/// Tells the recorder. Call it once, after it is installed.
pub(super) fn describe() {
    for (name, text) in COUNTERS {
        describe_counter!(*name, *text);
    }
    for (name, text) in GAUGES {
        describe_gauge!(*name, *text);
    }
    for (name, unit, text) in HISTOGRAMS {
        describe_histogram!(*name, *unit, *text);
    }
    describe_gauge!(
        "process_start_time_seconds",
        Unit::Seconds,
        "Start of the process, seconds since the epoch"
    );
}
