//! The promises of the contract, tested on every store, and those of a store behind a server.

#![expect(clippy::unwrap_used, reason = "a test fails")]

mod behind_a_server;
mod data;
mod deletion;
mod history;
mod latest;
mod letters;
mod retained;
mod server;
mod sizes;
mod tenants;
mod world;

/// One test for each store and promise.
macro_rules! promises {
    ($($module:ident: $($promise:ident),+;)+) => {
        mod embedded_store {
            $(mod $module { $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $promise() {
                    crate::$module::$promise(crate::world::Embedded::new()).await;
                }
            )+ })+
        }
        mod sealed_store {
            $(mod $module { $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $promise() {
                    crate::$module::$promise(crate::world::Embedded::sealed()).await;
                }
            )+ })+
        }
        mod memory_store {
            $(mod $module { $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $promise() {
                    crate::$module::$promise(crate::world::Memory::default()).await;
                }
            )+ })+
        }
        mod mongodb_store {
            $(mod $module { $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $promise() {
                    let Some(world) = crate::world::Mongo::new().await else { return };
                    crate::$module::$promise(world).await;
                }
            )+ })+
        }
    };
}

promises! {
    history:
        any_block_comes_back_as_it_was_written,
        writing_again_changes_nothing,
        blocks_written_by_many_at_one_time_are_there_once,
        blocks_are_found_by_device_and_time,
        blocks_that_overlap_are_all_found,
        halves_of_a_block_are_blocks_of_their_own,
        only_named_columns_are_read,
        tenants_do_not_see_each_other,
        old_readings_are_deleted_and_still_count,
        a_block_that_was_deleted_has_moved,
        a_block_without_rows_is_refused,
        synced_blocks_are_there_after_opening_again;
    latest:
        states_come_back_as_they_were_stored,
        states_are_found_by_device_and_read_in_pages,
        a_newer_state_takes_the_place_of_an_older_one,
        texts_and_names_of_all_kinds_survive;
    letters:
        a_letter_that_is_there_already_changes_nothing,
        beyond_a_bound_the_oldest_letters_of_the_largest_tenant_leave_and_are_counted,
        letters_are_listed_in_order_and_in_pages,
        a_list_ends_when_it_is_long_and_the_newest_are_found_without_it,
        a_replayed_letter_is_marked,
        letters_are_counted_by_tenant;
    retained:
        the_last_change_of_a_topic_stays,
        retained_messages_come_back_as_they_were,
        retained_messages_are_read_in_parts_and_by_their_topics;
    tenants:
        equal_readings_of_two_tenants_stay_apart,
        equal_devices_of_two_tenants_have_their_own_latest_state,
        equal_letters_of_two_tenants_stay_apart,
        equal_topics_of_two_tenants_retain_their_own_message;
    deletion:
        a_tenant_is_deleted_in_slices_and_no_other_loses_anything,
        a_deletion_that_was_interrupted_is_continued,
        old_readings_of_one_tenant_are_deleted_and_still_count,
        counts_of_what_left_before_are_deleted_too;
    sizes:
        the_size_of_a_tenant_is_that_of_its_readings,
        sizes_are_those_of_a_recount_after_any_changes;
}
