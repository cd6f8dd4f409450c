//! The contract of every back end: one suite, run against each of them.
//!
//! A back end joins with a [`Factory`](fixture::Factory) and a line in `contract!` below. The cases drive actions as
//! dispatch does and look at what clients would get and, through the factory, at the database, never at a driver.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

mod cases;
mod fixture;
#[cfg(feature = "redis")]
mod redis;
#[cfg(feature = "sqlite")]
mod sqlite;

/// A test for every case, on the back end that `$factory` makes.
macro_rules! tests {
    ($factory:expr; $($(#[$meta:meta])* $file:ident::$case:ident,)*) => {
        $(
            $(#[$meta])*
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                crate::cases::$file::$case(&$factory).await;
            }
        )*
    };
}

/// A module with all tests for one back end.
macro_rules! contract {
    ($back_end:ident, $factory:expr) => {
        mod $back_end {
            tests! { $factory;
                clients::a_client_is_online_then_offline,
                clients::a_take_over_leaves_the_client_online,
                clients::the_end_on_an_older_node_leaves_the_client_online,
                clients::stored_subscriptions_are_looked_up,
                clients::rows_that_cannot_be_subscribed_are_skipped,
                clients::subscriptions_are_stored_and_deleted,
                clients::the_end_of_a_shared_subscription_deletes_nothing_of_the_plain_one,
                messages::publish_stores_qos_1_and_2_only,
                messages::store_stores_every_qos_and_once_beside_publish,
                messages::payloads_are_bytes,
                messages::two_subscribers_have_their_own_positions,
                messages::a_position_waits_for_the_oldest_unacked_message,
                messages::a_position_never_goes_back,
                messages::a_backlog_asked_again_gives_what_was_stored_since,
                messages::a_position_passes_rows_of_foreign_form,
                messages::a_position_moves_over_any_number_of_rows,
                messages::a_position_passes_no_older_row_of_a_newer_message,
                messages::an_older_message_stored_after_a_newer_one_was_acknowledged_is_fetched,
                messages::an_ack_of_an_unstored_message_moves_to_the_newest_stored_one,
                messages::a_backlog_comes_in_pages,
                messages::a_page_with_an_unusable_row_is_not_the_last,
                messages::a_time_range_bounds_the_age,
                messages::a_wildcard_fetch_filters_by_topic,
                messages::a_wildcard_fetch_fills_its_pages,
                messages::a_shared_subscription_gets_nothing_stored,
                messages::a_queue_is_emptied_by_acks,
                messages::keep_latest_keeps_one_message_a_topic,
                messages::acked_delete_forgets_positions,
                messages::rows_of_other_writers_are_delivered_and_acked,
                messages::an_operation_written_twice_is_done_once,
                messages::acks_at_the_same_time_keep_every_position,
                messages::one_to_many_functions_do_as_fetch_and_acked,
                messages::a_fetch_sees_what_was_only_accepted,
                messages::nothing_in_a_name_or_payload_is_taken_for_a_command,
                names::a_topic_that_is_called_like_a_stored_message_harms_nothing,
                names::a_message_that_is_called_like_a_topic_harms_nothing,
                names::a_refused_message_that_is_replaced_takes_nothing_with_it,
                expiry::what_a_line_writes_expires,
                expiry::a_message_that_stays_outlives_a_younger_one_with_a_time,
                expiry::a_message_that_stays_outlives_an_older_one_with_a_time,
                expiry::a_longer_time_is_not_cut_by_a_shorter_one,
                expiry::states_positions_and_subscriptions_expire,
                expiry::what_is_written_again_without_a_time_stays,
                nodes::two_nodes_share_a_database,
                nodes::two_nodes_publish_and_acknowledge_at_the_same_time,
                nodes::a_queue_is_emptied_by_two_clients_at_the_same_time,
                commands::custom_commands_put_in_their_variables,
                commands::only_the_refused_command_fails,
                commands::guests_send_commands,
                commands::commands_of_a_guest_keep_their_order_and_their_own_errors,
                commands::a_script_answers_with_values_within_each_other,
                commands::commands_that_change_the_connection_are_refused,
                pairs::pairs_are_set_read_listed_and_deleted,
                pairs::pairs_are_counted_and_swapped_one_after_the_other,
                retained::a_retained_message_is_replaced_and_deleted,
                retained::a_look_up_finds_what_the_filter_matches,
                retained::a_large_look_up_goes_on_in_a_backlog,
                statements::custom_statements_bind_their_variables,
                statements::statements_of_one_action_are_one_transaction,
                statements::an_implicit_ack_moves_positions_but_runs_no_statement,
                statements::only_the_refused_message_fails,
                statements::an_endless_statement_is_given_up,
                statements::guests_run_functions_and_statements,
                statements::a_guest_that_is_not_polled_holds_nobody_back,
                statements::guests_query_with_typed_values,
                statements::guests_cannot_reach_the_connection,
            }
        }
    };
}

#[cfg(feature = "sqlite")]
contract!(sqlite_contract, crate::sqlite::Factory);
#[cfg(feature = "redis")]
contract!(redis_contract, crate::redis::Factory::Single);
#[cfg(feature = "redis")]
contract!(redis_auth_contract, crate::redis::Factory::Auth);
#[cfg(feature = "redis")]
contract!(redis_sentinel_contract, crate::redis::Factory::Sentinel);
#[cfg(feature = "redis")]
contract!(redis_cluster_contract, crate::redis::Factory::Cluster);
