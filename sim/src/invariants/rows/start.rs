//! start-and-worker §12.

use super::{Row, explore, fuzz, real, story};

const ACQUIRE: &str = "core/src/agent/tests/acquire.rs";
const CONTRACT: &str = "core/src/agent/tests/contract.rs";
const IDLE: &str = "core/src/agent/tests/idle.rs";
const LADDER: &str = "core/src/agent/tests/ladder.rs";
const POLLING: &str = "core/src/agent/tests/polling.rs";
const RANDOM: &str = "core/src/agent/tests/invariants.rs";
const REGISTRATION: &str = "core/src/agent/tests/registration.rs";
const STOPS: &str = "core/src/agent/tests/stops.rs";
const STREAMING: &str = "core/src/agent/tests/streaming.rs";
const TRACES: &str = "core/src/agent/tests/traces.rs";
const WATCHING: &str = "core/src/agent/tests/watching.rs";
const REAL: &str = "tests/stops.rs";
const FLAGS: &str = "tests/start_flags.rs";
const JOBS: &str = "tests/jobs.rs";

const WORLDS: super::Test = fuzz(RANDOM, "the_invariants_hold_in_random_worlds");
const KEPT: super::Test = fuzz(CONTRACT, "the_agent_keeps_the_contract");

pub(super) const ROWS: &[Row] = &[
    Row { number: 1, text: "one active job per worker", tests: &[WORLDS] },
    Row { number: 2, text: "no accept during a job or another accept", tests: &[WORLDS] },
    Row {
        number: 3,
        text: "no new accept or acquire after a stop",
        tests: &[
            story(STOPS, "r3_a_stop_at_the_instant_of_the_assignment_wins"),
            story(STOPS, "r4_no_accept_attempt_follows_a_stop"),
            WORLDS,
            real(REAL, "stop_between_accept_attempts_sends_no_further_one"),
        ],
    },
    Row {
        number: 4,
        text: "no spawn after a forced stop",
        tests: &[
            story(STOPS, "r5_forced_stop_between_accept_and_spawn_never_spawns"),
            real(REAL, "forced_stop_while_start_is_in_flight_spawns_nothing"),
        ],
    },
    Row {
        number: 5,
        text: "a forced stop cancels the active job once and at once, a graceful one never",
        tests: &[
            story(STOPS, "forced_after_graceful_cancels_the_job_exactly_once"),
            real(REAL, "second_signal_interrupts_the_job_with_reason_agent_stop"),
            real(REAL, "first_signal_during_a_job_lets_it_finish"),
        ],
    },
    Row {
        number: 6,
        text: "one disconnect of up to four attempts, a second apart",
        tests: &[story(STOPS, "a_disconnect_that_never_gets_through_is_four_attempts_and_no_error"), WORLDS],
    },
    Row {
        number: 7,
        text: "disconnect only after a connect that succeeded or was aborted",
        tests: &[
            story(STOPS, "connect_that_never_succeeds_is_ten_attempts_an_error_and_no_disconnect"),
            story(STOPS, "connect_in_flight_forced_aborts_and_disconnects_as_the_outcome_is_unknown"),
            real(REAL, "stop_between_connect_attempts_leaves_without_disconnect"),
        ],
    },
    Row {
        number: 8,
        text: "whoever was connected disconnects before a normal exit",
        tests: &[WORLDS, real(REAL, "first_signal_when_idle_disconnects_and_exits_0")],
    },
    Row { number: 9, text: "nothing after the disconnect", tests: &[WORLDS] },
    Row {
        number: 10,
        text: "no ping during a job",
        tests: &[story(STREAMING, "r8_a_stream_that_ends_for_good_during_a_job_releases_the_gate_at_its_end"), WORLDS],
    },
    Row {
        number: 11,
        text: "one delivery at a time, and its side holds the gate",
        tests: &[story(STREAMING, "r25_a_disconnect_while_poll_holds_the_gate_drops_the_ping")],
    },
    Row { number: 12, text: "no ping and no stream outside of serving, none of a source that has ended", tests: &[WORLDS] },
    Row { number: 13, text: "no ping while the stream side holds the gate", tests: &[WORLDS] },
    Row {
        number: 14,
        text: "poll-only: the first ping within P of serving",
        tests: &[story(POLLING, "pings_follow_the_grid_and_the_first_skips_its_tick")],
    },
    Row {
        number: 15,
        text: "the rate of pings is bounded in every window",
        tests: &[
            story(POLLING, "only_one_missed_tick_is_kept"),
            story(POLLING, "after_a_job_the_ticks_restart_and_the_first_is_skipped_but_not_the_jitter"),
        ],
    },
    Row {
        number: 16,
        text: "a ping is one attempt with one result",
        tests: &[story(POLLING, "undecodable_and_429_pings_are_failures_not_rejections")],
    },
    Row {
        number: 17,
        text: "first heartbeat not before connect + H, one cycle per H, one in flight",
        tests: &[story(WATCHING, "heartbeats_are_on_the_grid_from_connect_plus_h")],
    },
    Row {
        number: 18,
        text: "heartbeats go on until the last job is over",
        tests: &[
            story(WATCHING, "a_cycle_that_fails_is_retried_ten_times_and_a_missed_tick_starts_the_next_at_once"),
            story(LADDER, "t3_graceful_stop_during_a_job_waits_for_it_and_keeps_beating"),
        ],
    },
    Row {
        number: 19,
        text: "heartbeats end before the disconnect",
        tests: &[story(STOPS, "r18_a_heartbeat_in_flight_is_gone_before_the_disconnect")],
    },
    Row {
        number: 20,
        text: "a rejected heartbeat forces the stop of its worker, which ends with an error",
        tests: &[
            story(WATCHING, "t8_r1_r26_a_rejected_heartbeat_forces_the_stop_and_ends_the_worker"),
            real(REAL, "a_rejected_heartbeat_cancels_the_job_and_exits_1"),
        ],
    },
    Row {
        number: 21,
        text: "paused: no accept, and no leaving but for a stop, a disconnect, a rejection or the end of the sources",
        tests: &[
            story(POLLING, "r23_pause_hides_a_job_and_holds_until_resumed"),
            story(POLLING, "uptime_ends_an_idle_worker_and_waits_for_a_paused_one"),
        ],
    },
    Row { number: 22, text: "a failed ping ends no pause", tests: &[story(POLLING, "r6_a_failed_ping_is_no_news_and_does_not_end_a_pause")] },
    Row {
        number: 23,
        text: "a pause that came during the job keeps a one-shot worker",
        tests: &[story(STREAMING, "r24_a_pause_during_the_job_of_a_one_shot_agent_wins")],
    },
    Row {
        number: 24,
        text: "the server's disconnect cancels no job",
        tests: &[
            story(STREAMING, "the_streams_disconnect_lets_the_job_run_to_its_end"),
            story(POLLING, "the_servers_disconnect_leaves_and_ignores_a_job"),
        ],
    },
    Row {
        number: 25,
        text: "disconnect-after-job: one job, whose finish asks for no more; otherwise the field is absent",
        tests: &[
            story(POLLING, "a_one_shot_agent_never_takes_a_second_job"),
            story(POLLING, "without_disconnect_after_job_the_field_is_absent"),
            real(REAL, "disconnect_after_job_runs_one_job_and_tells_the_server"),
        ],
    },
    Row {
        number: 26,
        text: "acquire mode asks for its own job only, and accepts nothing",
        tests: &[story(ACQUIRE, "a_job_offered_to_an_acquiring_agent_is_never_accepted")],
    },
    Row {
        number: 27,
        text: "acquire: seven attempts, numbered, within 330 s, locking",
        tests: &[
            story(ACQUIRE, "the_330_second_limit_ends_it_and_locked_stays_locked"),
            story(ACQUIRE, "t7_acquire_with_lock_then_pause_reflects_the_exit_status"),
        ],
    },
    Row {
        number: 28,
        text: "acquire answered 422: no second attempt, no ping, exit 27",
        tests: &[
            story(ACQUIRE, "a_rejected_acquisition_is_27_after_a_disconnect_and_without_ping"),
            real(REAL, "an_acquire_that_is_rejected_exits_27_and_one_that_is_unknown_exits_1"),
        ],
    },
    Row {
        number: 29,
        text: "no accept once the uptime limit has fired",
        tests: &[story(STREAMING, "uptime_fired_during_a_job_beats_the_job_behind_it_but_not_a_waiting_pause")],
    },
    Row {
        number: 30,
        text: "the idle timer fires only when all workers are idle or dead, and not before T",
        tests: &[story(IDLE, "t6_the_pool_waits_for_the_last_worker"), explore(IDLE, "every_subset_of_dead_paused_initial_and_idle")],
    },
    Row {
        number: 31,
        text: "it then fires at T after the last one became idle",
        tests: &[
            story(IDLE, "a_lone_worker_leaves_after_its_first_idle_plus_the_limit"),
            explore(IDLE, "every_subset_of_dead_paused_initial_and_idle"),
        ],
    },
    Row {
        number: 32,
        text: "a paused or working worker blocks it",
        tests: &[
            story(IDLE, "a_failed_ping_is_idleness_and_a_pause_keeps_the_pool_alive"),
            explore(IDLE, "every_subset_of_dead_paused_initial_and_idle"),
        ],
    },
    Row {
        number: 33,
        text: "of messages during an action only the net effect is delivered",
        tests: &[explore(STREAMING, "debouncer_all_words_up_to_six_have_only_their_net_effect")],
    },
    Row {
        number: 34,
        text: "jobs of a stream come in order and once",
        tests: &[
            story(STREAMING, "a_stream_that_repeats_a_job_runs_it_once"),
            story(STREAMING, "r11_a_job_accepted_by_poll_is_not_accepted_again_from_the_queue"),
        ],
    },
    Row { number: 35, text: "a job without an id is never delivered", tests: &[story(STREAMING, "a_job_without_an_id_breaks_the_stream"), WORLDS] },
    Row { number: 36, text: "stream attempts come in windows that double to 64 s", tests: &[story(STREAMING, "windows_double_up_to_64_seconds")] },
    Row {
        number: 37,
        text: "no stream is open for more than 60 s",
        tests: &[story(STREAMING, "a_healthy_stream_means_no_ping_and_routine_reconnects_are_silent")],
    },
    Row {
        number: 38,
        text: "an unhealthy stream with nothing in progress lets a waiting ping go at once",
        tests: &[story(STREAMING, "t2_the_stream_fails_and_comes_back")],
    },
    Row {
        number: 39,
        text: "with something in progress the gate is free when that ends",
        tests: &[
            story(STREAMING, "r9_a_stream_unhealthy_during_a_job_releases_the_gate_at_its_end"),
            story(STREAMING, "r8_a_stream_that_ends_for_good_during_a_job_releases_the_gate_at_its_end"),
        ],
    },
    Row {
        number: 40,
        text: "a stream that spoke and ended well causes no ping; a silent one is unhealthy",
        tests: &[story(STREAMING, "r12_a_stream_that_ends_without_any_message_is_unhealthy")],
    },
    Row {
        number: 41,
        text: "stream-only never pings, poll-only never streams",
        tests: &[story(STREAMING, "a_final_code_ends_a_stream_only_worker_with_an_error")],
    },
    Row {
        number: 42,
        text: "after a stop the disconnect waits for one answer at most, or for the job",
        tests: &[
            story(STOPS, "waiting_for_tick_jitter_gate_or_window_ends_at_once"),
            story(STOPS, "r14_a_ping_in_flight_is_aborted_and_its_answer_discarded"),
            story(STOPS, "acquire_in_flight_is_awaited_for_five_seconds"),
            real(REAL, "stop_while_a_ping_hangs_does_not_wait_for_it"),
            real(REAL, "stop_during_a_hanging_connect_is_bounded_and_disconnects_once"),
        ],
    },
    Row {
        number: 43,
        text: "the process ends within G + 1 s of the first forced stop",
        tests: &[
            story(LADDER, "t4_the_force_timer_ends_the_process_when_nothing_gets_through"),
            explore(LADDER, "every_word_of_four_signals_ends_within_its_bound"),
            real(REAL, "the_force_timer_ends_a_stop_that_cannot_report"),
        ],
    },
    Row {
        number: 44,
        text: "the third signal ends it at once with 1",
        tests: &[
            story(LADDER, "the_third_signal_exits_at_once_and_nothing_follows"),
            explore(LADDER, "every_word_of_four_signals_ends_within_its_bound"),
            real(REAL, "third_signal_exits_1_at_once"),
        ],
    },
    Row {
        number: 45,
        text: "SIGHUP changes nothing",
        tests: &[
            story(LADDER, "hup_is_ignored_while_idle_busy_and_in_the_hook"),
            explore(LADDER, "every_word_of_four_signals_ends_within_its_bound"),
            real(REAL, "hangup_does_nothing"),
        ],
    },
    Row {
        number: 46,
        text: "the force timer is set once and never moved",
        tests: &[story(LADDER, "the_force_timer_fires_g_plus_one_second_after_the_first_forced_stop_and_is_never_moved")],
    },
    Row { number: 47, text: "the exit code follows the table", tests: &[story(LADDER, "exit_codes_follow_the_table_and_its_precedence")] },
    Row {
        number: 48,
        text: "hooks: startup before any connect, shutdown once after the last worker",
        tests: &[
            story(REGISTRATION, "the_startup_hook_precedes_every_connect"),
            story(REGISTRATION, "a_failing_startup_hook_runs_the_shutdown_hook_and_is_exit_1"),
            WORLDS,
            real(REAL, "a_failing_startup_hook_connects_nobody_and_runs_the_shutdown_hook"),
        ],
    },
    Row {
        number: 49,
        text: "both hooks see the same ids and names in spawn order",
        tests: &[story(REGISTRATION, "worker_order_is_the_spawn_index_whatever_the_order_of_the_answers")],
    },
    Row {
        number: 50,
        text: "signals during the shutdown hook change nothing but by the third and the force timer",
        tests: &[
            story(LADDER, "r13_signals_during_the_shutdown_hook_are_counted_and_change_nothing_but_by_count_3_and_the_force_timer"),
            real(REAL, "signals_during_the_shutdown_hook_do_not_cut_it_off_until_the_third"),
        ],
    },
    Row {
        number: 51,
        text: "all register before any connects; one failure connects none",
        tests: &[
            story(REGISTRATION, "all_workers_register_in_parallel_with_their_own_name_and_priority"),
            story(REGISTRATION, "races_r02_one_failure_ends_the_process_without_connect_or_hook"),
            real(REAL, "one_failing_registration_ends_the_start_with_exit_1_and_no_connect"),
            real(FLAGS, "given_several_workers_then_names_and_priorities_are_numbered"),
        ],
    },
    Row {
        number: 52,
        text: "each token on its own requests only",
        tests: &[
            story(REGISTRATION, "the_answer_sets_endpoint_token_and_headers_of_everything_after_it"),
            real(JOBS, "the_job_gets_its_token_and_never_the_registration_token"),
        ],
    },
    Row {
        number: 53,
        text: "after a switch everything but a running job goes to the new endpoint",
        tests: &[story(POLLING, "r15_an_endpoint_switch_takes_everything_from_the_second_answer")],
    },
    Row {
        number: 54,
        text: "a switch needs a test ping that succeeds; action and job come from one answer",
        tests: &[
            story(POLLING, "r15_an_endpoint_switch_takes_everything_from_the_second_answer"),
            story(POLLING, "a_failed_test_ping_keeps_the_endpoint_and_the_first_answer"),
        ],
    },
    Row {
        number: 55,
        text: "each delivery is completed once, unless the worker leaves",
        tests: &[story(STOPS, "r2_a_job_whose_start_is_refused_after_the_stop_lets_the_worker_leave")],
    },
    Row { number: 56, text: "no wedge: something is always pending until the end", tests: &[WORLDS] },
    Row {
        number: 57,
        text: "one failing worker stops no other; the pool waits for all",
        tests: &[story(REGISTRATION, "one_worker_that_fails_does_not_stop_the_others")],
    },
    Row { number: 58, text: "counters of workers and jobs balance", tests: &[WORLDS] },
    Row {
        number: 59,
        text: "the watchdog is fed only with contact, without failed workers, and not after the pool",
        tests: &[
            story(WATCHING, "races_r23_the_watchdog_is_not_fed_when_two_intervals_pass_without_contact"),
            story(WATCHING, "one_failed_worker_of_several_stops_the_watchdog_for_good"),
        ],
    },
    Row {
        number: 60,
        text: "children inherit no option and never the registration token",
        tests: &[
            real(FLAGS, "given_a_whole_life_then_hooks_see_a_scrubbed_environment_and_the_recording_replays"),
            real(JOBS, "the_job_gets_its_token_and_never_the_registration_token"),
        ],
    },
    Row { number: 61, text: "timers lie in the future and in their ranges", tests: &[KEPT] },
    Row {
        number: 62,
        text: "the status page shows the job held",
        tests: &[
            story(WATCHING, "health_is_shown_when_it_changes"),
            real("tests/status.rs", "an_agent_with_port_0_says_where_it_listens_and_answers_every_path"),
        ],
    },
    Row {
        number: 63,
        text: "same seed and events, same commands",
        tests: &[
            story(TRACES, "the_same_events_give_the_same_commands"),
            KEPT,
            fuzz("tests/simulation.rs", "a_seed_gives_the_same_bytes_twice_in_one_process_and_in_another_process"),
            real("tests/replay.rs", "a_recorded_session_replays_to_the_same_commands_and_holds_no_secret"),
        ],
    },
];
