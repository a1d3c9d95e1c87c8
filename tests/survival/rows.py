"""The fault matrix (docs: PROMISES), row by row, and the tests that prove each. `test_faults_rows.py` holds it to that.

 1  client leaves a foreground stream      16  disk full
 2  client leaves a background stream      17  SQLite locked by another process
 3  client drops at every event            18  SQLite file corrupted
 4  slow or stalled reader                 22  clock jumps
 5  upstream refuses, DNS, TLS             23  replicas migrate at once
 6  upstream limits the rate               24  ingestion killed halfway
 7  upstream 500 before the first token    25  same idempotency key again
 8  upstream breaks after the first token  29  search index truncated
 9  half-open stall                        30  event loop blocked by a user's code
10  malformed event streams                31  out of files
11  truncated or invalid chunks            32  runaway agent
12  wrong content type, gzip, redirect
13  a chunk without end
14  worker killed in the middle of a stream
15  SIGTERM

Row 18: what is damaged at rest is refused; what is damaged while a server has the file open, or before one that crashed
is started again, is noticed where SQLite's own check sees it, and else when it does not parse.
"""

ROWS: dict[int, list[str]] = {
    1: [
        "survival/test_faults_upstream.py::test_row_01_a_hundred_clients_that_leave_leave_nothing_open",
        "scenes/test_upstreams.py::test_a_client_that_leaves_closes_the_upstream",
        "contract/test_streams.py::test_a_client_that_leaves_stops_the_run",
        "contract/test_streams.py::test_a_client_that_leaves_a_json_request_stops_the_run",
    ],
    2: [
        "contract/test_streams.py::test_a_live_stream_resumes_at_every_index",
        "scenes/test_two_processes.py::test_a_run_is_followed_from_the_other_process",
        "survival/test_resume_kinds.py::test_a_live_stream_is_read_by_many_from_where_they_left",
    ],
    3: [
        "survival/test_resume_bytes.py::test_a_finished_answer_is_cut_at_each_byte",
        "survival/test_resume_bytes.py::test_a_live_answer_is_cut_at_many_bytes",
        "survival/test_resume_kinds.py::test_a_finished_stream_resumes_behind_each_event",
        "survival/test_resume_sdks.py::test_a_finished_stream_is_resumed_behind_each_event",
        "contract/test_streams.py::test_a_finished_stream_resumes_at_every_index",
        "contract/test_streams.py::test_a_live_stream_resumes_at_every_index",
    ],
    4: [
        "survival/test_faults_process.py::test_row_04_readers_that_do_not_read_hold_up_nobody_and_cost_little",
        "survival/test_faults_process.py::test_row_04_who_does_not_read_is_cut_off_and_can_read_on",
        "survival/test_faults_process.py::test_row_04_who_does_not_read_a_socket_is_cut_off_too",
        "http/test_live_streams.py::test_a_line_that_is_full_gets_the_rest_later",
    ],
    5: [
        "survival/test_faults_upstream.py::test_row_05_a_closed_port_is_unavailable_and_the_key_is_free_for_the_retry",
        "survival/test_faults_upstream.py::test_row_05_names_and_certificates_that_are_wrong",
        "models/test_openai_chat.py::test_a_closed_port_is_unavailable",
        "models/test_chain.py::test_the_next_answers_when_nobody_listens",
    ],
    6: [
        "models/test_openai_chat.py::test_retry_after_is_obeyed",
        "models/test_openai_chat.py::test_a_date_as_retry_after_is_obeyed",
        "models/test_openai_chat.py::test_a_long_retry_after_is_handed_on_at_once",
        "models/test_health.py::test_retries_have_a_budget",
    ],
    7: [
        "models/test_openai_chat.py::test_a_failing_server_is_tried_twice_more",
        "models/test_openai_chat.py::test_two_retries_are_all",
        "models/test_chain.py::test_the_next_answers_when_the_first_cannot",
    ],
    8: [
        "survival/test_faults_upstream.py::test_row_08_cut_after_any_token_the_response_fails_with_what_was_said",
        "models/test_chain.py::test_once_one_has_begun_nothing_is_begun_anew",
        "scenes/test_upstreams.py::test_an_upstream_killed_midway_ends_the_response",
    ],
    9: [
        "survival/test_faults_upstream.py::test_row_09_a_half_open_upstream_is_told_after_keep_alives",
        "survival/test_faults_upstream.py::test_row_09_an_upstream_that_accepts_and_never_answers",
        "models/test_openai_chat.py::test_a_silent_server_times_out",
    ],
    10: [
        "models/test_chat_transcripts.py::test_a_transcript_says_the_same_however_it_is_written_and_cut",
        "models/test_openai_responses.py::test_a_transcript_says_the_same_wherever_it_is_cut",
        "models/test_openai_responses.py::test_a_transcript_says_the_same_however_it_is_written",
        "models/test_anthropic.py::test_a_transcript_says_the_same_wherever_it_is_cut",
        "models/test_models_sse.py::test_any_cut_into_many_pieces_gives_the_same_events",
    ],
    11: [
        "survival/test_faults_transcripts.py::test_row_11_a_spoilt_transcript_ends_in_an_answer_or_in_an_error_of_ours",
        "survival/test_faults_transcripts.py::test_row_11_through_the_front_door",
        "models/test_openai_chat.py::test_nonsense_is_a_protocol_error",
        "models/test_openai_chat.py::test_what_came_before_a_broken_chunk_is_kept",
    ],
    12: [
        "survival/test_faults_upstream.py::test_row_12_what_says_gzip_and_is_not_is_a_protocol_error",
        "models/test_openai_chat.py::test_nonsense_is_a_protocol_error",
        "models/test_chain.py::test_a_key_that_a_server_tells_is_not_told_on",
        "models/test_chain.py::test_a_key_goes_to_its_own_server_only",
    ],
    13: [
        "survival/test_faults_upstream.py::test_row_13_a_line_of_a_hundred_megabytes_costs_little_memory",
        "survival/test_faults_upstream.py::test_row_13_a_server_that_heeds_no_limit_is_left",
        "models/test_openai_chat.py::test_a_line_without_end_is_too_large",
    ],
    14: [
        "survival/test_crashes.py::test_nothing_is_lost",
        "survival/test_crashes.py::test_workers_and_gentle_ends",
        "survival/test_power_loss.py::test_nothing_acknowledged_is_lost",
        "survival/test_resume_processes.py::test_another_process_goes_on_with_a_stream_and_ends_it_when_its_own_is_killed",
        "scenes/test_spine.py::test_a_stream_cut_by_a_kill_is_ended_and_replayed",
        "scenes/test_two_processes.py::test_a_dead_process_is_noticed_by_the_living",
    ],
    15: [
        "survival/test_faults_process.py::test_row_15_told_to_stop_under_load_it_finishes_what_is_open",
        "scenes/test_stopping.py::test_a_stopping_server_ends_what_is_open",
        "scenes/test_stopping.py::test_who_asks_all_the_time_is_told_that_the_connection_ends",
        "survival/test_rolling.py::test_clients_do_not_notice",
        "cli/test_cli.py::test_sigterm_lets_open_streams_finish",
        "cli/test_cli.py::test_sigterm_cuts_endless_streams_after_the_grace_time",
    ],
    16: [
        "survival/test_faults_disk.py::test_row_16_a_full_disk_refuses_writes_and_serves_reads",
        "survival/test_faults_disk.py::test_row_16_a_stream_that_meets_a_full_disk_ends_once_there_is_room",
        "events/test_full_disk.py::test_one_that_fills_the_disk_takes_no_other_with_it",
    ],
    17: [
        "survival/test_faults_disk.py::test_row_17_a_lock_of_three_seconds_is_waited_for",
        "survival/test_faults_disk.py::test_row_17_a_lock_of_ten_seconds_is_a_503_that_says_when_to_come_again",
        "scenes/test_stopping.py::test_a_locked_database_costs_no_event",
    ],
    18: [
        "survival/test_faults_damage.py::test_row_18_a_flipped_bit_anywhere_is_refused",
        "survival/test_faults_damage.py::test_row_18_a_file_that_a_crash_left_open_is_looked_at",
        "survival/test_faults_damage.py::test_row_18_two_that_have_it_open_seal_it_once_both_are_done",
        "cli/test_backups.py::test_a_damaged_file_is_not_served_and_a_daily_copy_helps",
        "cli/test_backups.py::test_what_was_saved_while_it_was_in_use_is_there_again",
        "cli/test_backups.py::test_of_the_daily_copies_the_last_are_kept",
        "cli/test_cli.py::test_a_file_that_is_no_database_is_left_alone",
    ],
    22: [
        "survival/test_faults_clock.py::test_row_22_a_clock_that_jumps_disturbs_no_stream_and_no_order",
        "survival/test_faults_clock.py::test_row_22_work_that_comes_after_a_jump_is_done",
    ],
    23: ["storage/test_migrations.py::test_processes_that_start_at_once_all_come_up"],
    24: [
        "retrieval/test_ingestion_killed.py::test_every_file_is_whole_after_many_kills",
        "scenes/test_spine.py::test_ingestion_cut_by_a_kill_is_completed_or_failed",
    ],
    25: [
        "contract/test_idempotency.py::test_the_first_answer_comes_again",
        "contract/test_idempotency.py::test_of_many_at_once_one_is_carried_out",
        "contract/test_idempotency.py::test_across_a_crash_nothing_is_made_twice",
    ],
    29: [
        "survival/test_faults_index.py::test_row_29_an_index_cut_off_anywhere_is_made_again_or_right",
        "survival/test_faults_index.py::test_row_29_a_flipped_bit_anywhere_in_an_index_is_noticed",
        "search/test_lexical.py::test_a_broken_file_is_made_again",
        "search/test_index.py::test_a_deleted_folder_and_a_restored_database_are_noticed",
        "retrieval/test_retrieval_http.py::test_a_deleted_cache_is_made_again",
    ],
    30: [
        "survival/test_faults_process.py::test_row_30_a_route_that_blocks_its_thread_holds_up_nobody",
        "survival/test_faults_process.py::test_row_30_code_that_blocks_the_loop_is_named",
    ],
    31: [
        "survival/test_faults_process.py::test_row_31_without_a_file_to_be_had_it_refuses_and_recovers",
        "survival/test_faults_process.py::test_row_31_too_many_connections_are_refused_and_a_probe_is_not",
        "survival/test_faults_process.py::test_row_31_bodies_that_would_fill_the_memory_are_refused",
        "hostile/test_limits.py::test_runs_at_once",
    ],
    32: ["turn/test_runs.py::test_a_model_that_never_stops_calling_is_stopped"],
}
