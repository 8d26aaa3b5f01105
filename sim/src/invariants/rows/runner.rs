//! job-runner §11.

use super::{Row, fuzz, real, story};

const BEFORE: &str = "core/src/job/tests/before.rs";
const CANCEL: &str = "core/src/job/tests/cancel.rs";
const CONTRACT: &str = "core/src/job/tests/contract.rs";
const ENVIRONMENT: &str = "core/src/job/tests/environment.rs";
const REPORT: &str = "core/src/job/tests/report.rs";
const RUNNING: &str = "core/src/job/tests/running.rs";
const STOP: &str = "core/src/job/tests/stop.rs";
const LOG: &str = "core/src/log/tests.rs";
const EXACT: &str = "core/src/log/tests/exact.rs";
const HEADERS: &str = "core/src/log/tests/headers.rs";
const STAMPS: &str = "core/src/log/timestamps.rs";
const REDACT: &str = "core/src/log/redact.rs";
const PROCESS: &str = "core/src/process/tests.rs";
const JOBS: &str = "tests/jobs.rs";
const RACE_LOGS: &str = "tests/races/logs.rs";
const RACE_GROUPS: &str = "tests/races/groups.rs";
const STOPS: &str = "tests/stops.rs";

const LIVES: super::Test = fuzz(CONTRACT, "v2_every_life_ends_and_a_started_job_gets_its_finish_with_a_result_of_the_table");
const LOGS: super::Test = fuzz(EXACT, "the_log_is_exact_and_every_chunk_is_accounted_for");

pub(super) const ROWS: &[Row] = &[
    Row {
        number: 1,
        text: "one start accepted; seven attempts by the table",
        tests: &[story(BEFORE, "i1_start_is_tried_seven_times_with_waits_of_1_to_32_seconds_and_one_started_at")],
    },
    Row {
        number: 2,
        text: "a started job gets a finish",
        tests: &[LIVES, story(BEFORE, "w3_a_full_disk_is_reported_start_line_finish"), real(JOBS, "a_job_that_cannot_be_spawned_is_reported")],
    },
    Row {
        number: 3,
        text: "no finish after one that was settled",
        tests: &[
            story(REPORT, "r40_a_422_after_a_lost_answer_ends_the_matter"),
            story(REPORT, "token_expiry_on_finish_is_not_retried"),
            real(JOBS, "a_lost_finish_answer_ends_with_the_422_of_the_second_attempt"),
        ],
    },
    Row {
        number: 4,
        text: "all attempts of a finish are equal",
        tests: &[story(REPORT, "i4_finish_is_retried_by_its_table_with_one_body_and_a_header_that_counts_down")],
    },
    Row {
        number: 5,
        text: "no finish without an accepted start",
        tests: &[
            story(BEFORE, "w4_a_rejected_start_leaves_no_process_no_finish_and_no_files"),
            LIVES,
            real(JOBS, "a_rejected_start_drops_the_job_and_leaves_no_file"),
        ],
    },
    Row {
        number: 6,
        text: "nothing after the finish, no poll after the exit",
        tests: &[story(RUNNING, "i6_a_poll_in_flight_at_the_exit_is_given_up_and_none_follows")],
    },
    Row {
        number: 7,
        text: "finish only when every chunk is settled, and no chunk after it",
        tests: &[story(REPORT, "i5_and_i7_no_finish_is_sent_before_every_chunk_is_settled")],
    },
    Row {
        number: 8,
        text: "chunks given up are counted in the finish",
        tests: &[LOGS, real(JOBS, "rejected_chunks_are_counted_and_later_ones_keep_their_place")],
    },
    Row {
        number: 9,
        text: "the result follows the table",
        tests: &[
            story(RUNNING, "every_cell_of_the_result_table_2_3"),
            LIVES,
            real(JOBS, "the_leaders_end_is_reported_by_the_table"),
            real(JOBS, "a_cancelled_job_is_never_a_success"),
        ],
    },
    Row {
        number: 10,
        text: "a refused job has no process",
        tests: &[story(BEFORE, "every_row_of_the_signature_table_4_1"), real(JOBS, "allow_lists_and_the_pre_bootstrap_hook_refuse")],
    },
    Row {
        number: 11,
        text: "a signal only with -1; five reasons",
        tests: &[story(REPORT, "trap_3_the_body_always_has_the_count_and_never_empty_strings"), LIVES],
    },
    Row {
        number: 12,
        text: "times of start, exit and finish are in order",
        tests: &[story(REPORT, "i12_finished_at_is_when_clean_up_began_and_never_before_started_at")],
    },
    Row {
        number: 13,
        text: "no other job while a runner lives",
        tests: &[fuzz("core/src/agent/tests/invariants.rs", "the_invariants_hold_in_random_worlds")],
    },
    Row {
        number: 14,
        text: "the finish comes within its bound",
        tests: &[
            story(RUNNING, "r35_a_leaked_terminal_is_closed_after_10_s_and_a_pipe_after_s_plus_1"),
            real(JOBS, "output_kept_open_by_a_survivor_delays_the_finish_by_the_drain_bound_only"),
        ],
    },
    Row { number: 15, text: "sequences from 1 without a gap, each the same for ever", tests: &[LOGS] },
    Row { number: 16, text: "offsets add up; sizes from 1 to M", tests: &[LOGS] },
    Row { number: 17, text: "the chunks together are what was read", tests: &[LOGS, real(JOBS, "the_log_is_exact_with_a_terminal_and_with_a_pipe")] },
    Row {
        number: 18,
        text: "every byte before the end of output is in a chunk",
        tests: &[LOGS, real(RACE_LOGS, "r36_what_is_printed_in_the_first_millisecond_is_all_there")],
    },
    Row {
        number: 19,
        text: "three chunks in flight, started in order",
        tests: &[story(LOG, "a_log_is_cut_at_the_interval_and_uploaded_three_at_a_time_in_order"), LOGS],
    },
    Row {
        number: 20,
        text: "twelve attempts of a chunk by the table",
        tests: &[story(LOG, "a_chunk_that_fails_is_sent_again_unchanged_after_the_waits_of_the_table_and_given_up_after_twelve_attempts")],
    },
    Row {
        number: 21,
        text: "a chunk answered 4xx is not sent again, but for 429",
        tests: &[story(LOG, "i21_a_chunk_answered_4xx_is_not_sent_again")],
    },
    Row { number: 22, text: "a byte is cut within two intervals", tests: &[story(LOG, "i22_a_byte_is_cut_within_two_intervals_of_its_read")] },
    Row {
        number: 23,
        text: "what is buffered stays under its limit",
        tests: &[
            story(LOG, "w22_reading_stops_above_the_limit_and_resumes_below_three_quarters_with_nothing_lost"),
            fuzz("core/src/log/tests/contract.rs", "the_log_stream_keeps_the_contract_of_machines"),
        ],
    },
    Row {
        number: 24,
        text: "timestamps can be removed, begin every line, and are in no sequence",
        tests: &[
            story(STAMPS, "check_values_of_the_specification"),
            fuzz(STAMPS, "equals_the_byte_by_byte_rule"),
            fuzz(STAMPS, "does_not_depend_on_delivery_boundaries"),
        ],
    },
    Row { number: 25, text: "timestamps do not decrease", tests: &[story(STAMPS, "a_wall_clock_that_jumps_back_suppresses_nothing")] },
    Row {
        number: 26,
        text: "no registered secret is in a chunk",
        tests: &[fuzz(REDACT, "equals_the_oracle_under_every_split"), fuzz("fuzz/fuzz_targets/redact.rs", "")],
    },
    Row {
        number: 27,
        text: "withheld bytes are released",
        tests: &[
            story(REDACT, "only_what_may_still_become_a_needle_is_withheld"),
            story(REDACT, "a_run_of_white_space_without_end_is_not_withheld_without_end"),
            fuzz(REDACT, "equals_the_oracle_under_every_split"),
        ],
    },
    Row {
        number: 28,
        text: "a silent job uploads nothing",
        tests: &[story(LOG, "i28_a_silent_job_uploads_nothing_and_arms_no_timer"), real(JOBS, "a_silent_job_sends_no_chunk")],
    },
    Row {
        number: 29,
        text: "header times only without timestamps in the log, numbered without a gap",
        tests: &[
            story(HEADERS, "i29_no_header_times_with_ansi_timestamps"),
            story(HEADERS, "header_times_are_batched_a_second_apart_and_flushed_at_the_end"),
            real(JOBS, "plain_mode_streams_header_times_before_the_finish"),
        ],
    },
    Row {
        number: 30,
        text: "failing side outputs change nothing",
        tests: &[story(LOG, "side_outputs_get_the_raw_delivery_and_exactly_the_bytes_that_are_uploaded")],
    },
    Row { number: 31, text: "one process per job", tests: &[story(PROCESS, "a_spawn_becomes_exactly_one_of_failed_and_exited")] },
    Row {
        number: 32,
        text: "no spawn after a cancel",
        tests: &[
            story(STOP, "w28_w29_stopped_before_it_began_start_once_no_process_finish"),
            story(STOP, "w27_a_hook_that_succeeds_after_the_cancel_does_not_let_the_job_run"),
        ],
    },
    Row { number: 33, text: "one interrupt, before any kill", tests: &[story(PROCESS, "i33_exactly_one_interrupt_and_one_grace_timer")] },
    Row {
        number: 34,
        text: "no kill before S",
        tests: &[
            story(CANCEL, "i34_i35_a_stubborn_leader_is_killed_with_its_children_at_s_and_then_every_second"),
            story(CANCEL, "r25_later_requests_never_interrupt_again_nor_kill_earlier"),
        ],
    },
    Row {
        number: 35,
        text: "a kill at S if the leader lives",
        tests: &[
            story(CANCEL, "i34_i35_a_stubborn_leader_is_killed_with_its_children_at_s_and_then_every_second"),
            real(STOPS, "a_stubborn_job_is_killed_after_the_signal_timeout"),
        ],
    },
    Row {
        number: 36,
        text: "no signal to a job nobody cancelled",
        tests: &[
            story(RUNNING, "i36_a_job_that_is_not_cancelled_is_never_signalled_and_its_survivors_are_left_alone"),
            real(JOBS, "on_a_normal_end_survivors_are_left_alone"),
        ],
    },
    Row {
        number: 37,
        text: "no signal after the reaping but the sweep",
        tests: &[story(PROCESS, "interrupts_before_the_start_and_after_the_exit_do_nothing")],
    },
    Row {
        number: 38,
        text: "after a cancel the groups are empty when the finish is sent",
        tests: &[
            story(CANCEL, "w33_a_member_that_survives_its_obedient_leader_is_swept_at_the_end_of_the_grace"),
            real(JOBS, "a_member_of_the_group_that_outlives_a_cancelled_leader_is_swept"),
            real(JOBS, "a_stubborn_job_is_killed_and_so_are_its_childrens_groups"),
        ],
    },
    Row {
        number: 39,
        text: "the leader is reaped before the finish",
        tests: &[real(RACE_GROUPS, "r43_orphans_are_reaped_and_no_status_of_a_job_is_taken")],
    },
    Row {
        number: 40,
        text: "the drain is bounded and changes no result",
        tests: &[
            story(PROCESS, "s5_8_drain_bounds"),
            story(CANCEL, "w12_a_cancel_during_the_drain_changes_nothing_but_ends_the_wait_within_a_second"),
            real(RACE_LOGS, "r35_a_background_child_that_prints_for_ever_delays_the_finish_by_the_drain_bound_only"),
        ],
    },
    Row {
        number: 41,
        text: "the marker exists at the interrupt exactly if the first cause is a timeout",
        tests: &[
            story(CANCEL, "i41_the_marker_is_written_before_the_interrupt_only_if_the_timeout_came_first"),
            real(JOBS, "a_timeout_writes_the_marker_before_the_signal_and_removes_it"),
        ],
    },
    Row {
        number: 42,
        text: "env files live from before the start until before the finish",
        tests: &[story(REPORT, "clean_up_goes_flush_files_metrics_finish"), real(JOBS, "env_files_exist_during_the_job_are_private_and_go_with_it")],
    },
    Row {
        number: 43,
        text: "no token in the env files, no registration token in the job",
        tests: &[
            story(ENVIRONMENT, "i43_the_registration_token_never_reaches_the_job"),
            story(ENVIRONMENT, "the_env_files_show_the_edited_job_env_and_nothing_that_the_agent_adds"),
            real(JOBS, "the_job_gets_its_token_and_never_the_registration_token"),
        ],
    },
    Row {
        number: 44,
        text: "a graceful stop leaves the job alone",
        tests: &[story(STOP, "i44_nothing_but_a_forced_stop_reaches_the_runner_so_a_job_runs_on_for_hours")],
    },
    Row {
        number: 45,
        text: "a forced stop still attempts the finish, within its budget",
        tests: &[
            story(STOP, "i45_finish_is_attempted_once_and_its_retries_stop_with_the_budget"),
            story(STOP, "w26_the_flush_of_a_forced_stop_has_what_is_left_of_the_budget"),
        ],
    },
    Row {
        number: 46,
        text: "poll answers but the four states and 401 change nothing",
        tests: &[story(RUNNING, "i46_answers_other_than_the_four_states_and_401_change_nothing"), real(JOBS, "other_poll_answers_change_nothing")],
    },
    Row { number: 47, text: "no descriptor of one job in another", tests: &[real(JOBS, "a_job_has_no_descriptor_but_its_own")] },
    Row {
        number: 48,
        text: "same events and seed, same commands",
        tests: &[
            fuzz(CONTRACT, "the_runner_keeps_the_contract_of_machines"),
            fuzz("core/src/log/tests/contract.rs", "the_log_stream_keeps_the_contract_of_machines"),
        ],
    },
];
