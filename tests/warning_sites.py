"""Every place of ours that warns, and tests in which it does.

`tests/house/test_warning_sites.py` finds each in the source; the suite looks at where each warning
points (`pointing.py`), and at whether the tests here still bring theirs about.
"""

SPEECH = "tests/keras/test_speech.py::test_a_warning_points_at_the_line_of_fit"
LOOP_SPEECH = "tests/loops/test_speech.py::test_a_warning_points_at_the_line_of_the_loop"
FAULT = "tests/keras/test_warning_sites.py::test_a_fault_is_a_warning"
NEVER_CAME = "tests/keras/test_warning_sites.py::test_in_fit_a_metric_that_never_came_is_a_warning"
ENDS = "tests/keras/test_warning_sites.py::test_what_is_told_when_the_process_ends_points_at_the_program"
GONE = "tests/loops/test_a_folder_taken_away.py::test_what_comes_next_is_there_and_it_is_said_once"
A_FILE = (
    "tests/loops/test_a_folder_taken_away.py::"
    "test_where_a_file_has_its_place_that_is_said_and_it_goes_on_when_it_is_gone"
)
TOUCHED = "tests/loops/test_a_log_that_people_touch.py::"
ALERTS = "tests/keras/test_alerts.py::TestAlertsInFit::"
LOOP_ALERTS = "tests/loops/test_alerts.py::TestAlertsInALoopThatCountsFrom1::"
LOOP_NEVER_CAME = (
    "tests/loops/test_missing_metrics.py::test_a_loop_that_never_validates_is_told_before_it_ends"
)
SHARDED = "tests/workers/test_sharded.py::test_as_many_workers_go_on_with_the_same_bits"
STATISTICS = (
    "tests/workers/test_torch.py::test_statistics_that_differ_are_said_once_and_filed_by_rank"
)

SITES = {
    "backup/folder.py: BackupFolder.close": [FAULT],
    "backup/folder.py: BackupFolder.remove": [FAULT],
    "backup/interrupted.py: Interrupted.give_snapshots": [FAULT],
    "backup/keeping.py: Keeping._give": [FAULT],
    "backup/keeping.py: Keeping._ready_to_write": [FAULT, A_FILE],
    "backup/keeping.py: Keeping._tell_what_is_lost": [
        FAULT, "tests/keras/test_changed_program.py::test_another_monitor_begins_afresh",
    ],
    "backup/keeping.py: Keeping._tell_what_is_not_held": [
        "tests/loops/test_extra.py::test_a_trainer_s_own_attributes_are_in_its_hands"
    ],
    "backup/keeping.py: Keeping._tell_what_it_lacks": [
        "tests/loops/test_extra.py::test_a_new_one_goes_on_as_it_is_and_that_is_said"
    ],
    "backup/sharded.py: ShardedFolder.agreed": [SHARDED],
    "callbacks/csv_logger.py: _Writing._go_on": [
        FAULT, TOUCHED + "test_it_is_edited_between_a_crash_and_the_resume",
    ],
    "callbacks/csv_logger.py: _Writing._tell_gone": [FAULT, GONE],
    "callbacks/csv_logger.py: _Writing._told_failure": [
        FAULT, TOUCHED + "test_a_flush_that_failed_is_said_and_no_row_is_there_twice",
    ],
    "callbacks/csv_logger.py: _Writing._write_rows": [FAULT, A_FILE],
    "callbacks/csv_logger.py: _Writing.begin": [SPEECH, LOOP_SPEECH],
    "callbacks/csv_logger.py: _Writing.end": [
        FAULT, TOUCHED + "test_what_was_never_written_is_told_at_the_end",
    ],
    "callbacks/csv_logger.py: _Writing.settle": [FAULT],
    "callbacks/early_stopping.py: _Stopping.value_in": [
        FAULT,
        "tests/keras/test_overrides.py::test_where_super_finds_none_it_says_so_in_keras_s_words",
    ],
    "callbacks/reduce_lr_on_plateau.py: _Lowering.needs": [SPEECH, LOOP_SPEECH],
    "callbacks/remote_monitor.py: _Sending._tell_failure": [
        FAULT, "tests/keras/test_rest_of_the_set.py::test_a_hanging_server_holds_nobody_up",
    ],
    "callbacks/tensorboard.py: Boarding._record_gradients": [
        ("tests/loops/test_gradients.py::"
        "test_a_loop_that_clears_gradients_is_told_why_there_are_no_histograms")
    ],
    "callbacks/tensorboard.py: Boarding._writing": [FAULT, A_FILE],
    "checkpoint_files/saving.py: Saving._committed": [
        ("tests/checkpoint_files/test_folder.py::"
        "test_a_sidecar_that_cannot_be_true_is_told_and_costs_no_save")
    ],
    "checkpoint_files/saving.py: Saving._failed": [SPEECH, LOOP_SPEECH],
    "checkpoint_files/saving.py: Saving._miss": [NEVER_CAME, LOOP_NEVER_CAME],
    "checkpoint_files/saving.py: Saving._refuse": [
        FAULT, "tests/keras/test_background_saving.py::test_the_optimizer_is_looked_at_too",
    ],
    "checkpoint_files/saving.py: Saving._take_over": [FAULT],
    "checkpoint_files/saving.py: Saving.needs": [
        FAULT,
        ("tests/loops/test_hostile_sidecar.py::"
        "test_training_ends_well_and_one_warning_names_the_sidecar"),
    ],
    "checkpoint_files/saving.py: Saving.record": [
        FAULT,
        ("tests/keras/test_advice.py::"
        "test_in_a_fit_of_one_epoch_checkpoints_of_one_typo_say_it_once"),
    ],
    "checkpoint_files/unheard.py: Unheard.tell": [
        ("tests/keras/test_background_saving.py::"
        "test_what_was_accepted_comes_though_its_run_and_model_are_gone")
    ],
    "keras/profiler.py: usable": [
        ("tests/keras/test_tensorboard.py::"
        "test_a_batch_is_profiled_by_the_frameworks_own_profiler")
    ],
    "keras/tensorboard.py: KerasBoarding._model_json": [
        "tests/keras/test_tensorboard.py::test_a_model_that_cannot_be_written_as_json_is_no_error"
    ],
    "ledger/heartbeat.py: Heartbeat._say": [
        "tests/ledger/test_heartbeat.py::test_that_it_cannot_be_written_is_said_once"
    ],
    "ledger/reader.py: _PassedOver.close": [
        "tests/ledger/test_reader.py::test_garbage_in_the_middle_is_passed_over_and_told_once"
    ],
    "ledger/writer.py: Ledger._say": [
        ("tests/ledger/test_writer.py::"
        "test_a_full_disk_is_said_once_and_what_was_kept_comes_later")
    ],
    "runtime/recording.py: Recording._pass_on": [
        "tests/run/test_run.py::test_a_sink_hears_what_the_ledger_does_and_may_fail"
    ],
    "runtime/alerting.py: Alerting._ask": [
        ALERTS + "test_a_function_that_fails_is_a_warning_once",
        LOOP_ALERTS + "test_a_function_that_fails_is_a_warning_once",
    ],
    "runtime/alerting.py: Alerting._check_names": [
        ("tests/keras/test_gradients.py::"
        "test_an_alert_on_gradients_that_nobody_watches_is_told_how")
    ],
    "runtime/alerting.py: Alerting._pass_complaint": [
        ALERTS + "test_a_dead_webhook_is_said_once_and_raises_nothing",
        LOOP_ALERTS + "test_a_dead_webhook_is_said_once_and_raises_nothing",
    ],
    "runtime/alerting.py: Alerting._record_epoch": [
        ALERTS + "test_the_direction_must_be_known_only_for_a_new_best",
        LOOP_ALERTS + "test_the_direction_must_be_known_only_for_a_new_best",
    ],
    "runtime/alerting.py: Alerting._warn_of_strange_names": [
        ALERTS + "test_a_name_that_nobody_logs_is_said_at_the_end",
        LOOP_ALERTS + "test_a_name_that_nobody_logs_is_said_at_the_end",
    ],
    "runtime/exchange.py: _tell_partial": [
        "tests/workers/test_exchange.py::test_a_metric_of_one_rank_counts_for_all_and_is_said_once"
    ],
    "runtime/narration.py: tell": [SPEECH, LOOP_SPEECH],
    "runtime/opening.py: Opening.advise": [SPEECH, LOOP_SPEECH],
    "runtime/participant.py: Deciding.apply": [NEVER_CAME, LOOP_NEVER_CAME],
    "runtime/statistics.py: tell": [STATISTICS],
    "runtime/watching.py: Watch.__init__": [SPEECH, LOOP_SPEECH],
    "runtime/watching.py: Watching.look": [SPEECH, LOOP_SPEECH],
    "sinks/tracker.py: _Telling._is_installed": [
        "tests/sinks/test_tracker.py::test_one_whose_library_is_missing_is_said_before_the_first_batch"
    ],
    "sinks/tracker.py: _Telling.close": [
        "tests/sinks/test_tracker.py::test_one_that_hangs_holds_neither_training_nor_its_end"
    ],
    "store/reader.py: Reader.tell": ["tests/store/test_damage.py::test_every_single_bit_flip"],
    "store/store.py: Store._give_notices": [
        "tests/loops/test_a_folder_taken_away.py::test_a_backup_refers_to_nothing_that_was_deleted"
    ],
    "store/store.py: Store._tell_at_the_end": [ENDS],
    "store/store.py: _farewell": [ENDS],
    "tensorboard/records.py: EventFile._follow": [FAULT, GONE],
}  # fmt: skip
NOT_SEEN = {
    "backup/sharded.py: ShardedFolder.agreed",
    "runtime/statistics.py: tell",
    "store/store.py: Store._tell_at_the_end",
    "store/store.py: _farewell",
}
"""Those of a process of its own, of which only its output is seen."""
ON_JAX = {"keras/profiler.py: usable"}
"""Those that come about with JAX alone."""
OF_ONE_PLACE = {
    "ledger/heartbeat.py: Heartbeat._say": "a run's folder",
    "ledger/reader.py: _PassedOver.close": "a run's folder",
    "ledger/writer.py: Ledger._say": "a run's folder",
    "runtime/recording.py: Recording._pass_on": "a run's",
    "sinks/tracker.py: _Telling._is_installed": "a run's",
    "sinks/tracker.py: _Telling.close": "a run's",
    "backup/keeping.py: Keeping._tell_what_is_not_held": "what stands in a loop's frame",
    "backup/keeping.py: Keeping._tell_what_it_lacks": "what a loop takes along",
    "backup/sharded.py: ShardedFolder.agreed": "a loop's model in pieces",
    "callbacks/tensorboard.py: Boarding._record_gradients": "a loop that clears gradients",
    "checkpoint_files/saving.py: Saving._committed": "the files' business; no hook of anybody's",
    "checkpoint_files/unheard.py: Unheard.tell": "told when neither runs any more",
    "keras/profiler.py: usable": "Keras's own",
    "keras/tensorboard.py: KerasBoarding._model_json": "Keras's own",
    "runtime/alerting.py: Alerting._check_names": "only of fit the names are known before",
    "runtime/exchange.py: _tell_partial": "workers'",
    "runtime/statistics.py: tell": "workers'",
    "store/reader.py: Reader.tell": "a store's",
    "store/store.py: Store._give_notices": "a store's",
    "store/store.py: Store._tell_at_the_end": "a store's",
    "store/store.py: _farewell": "a store's",
}
"""Sites that are reached in `fit` alone, in loops alone, or in neither, and why. Each other one has
tests in both."""


def missed(seen):
    """What tests of the table were to bring about and have not.

    Args:
        seen: For each test that has run as a whole, by its name here, the sites that it showed.
    """
    return sorted(
        f"{test} no longer shows {site}"
        for site, tests in SITES.items()
        if site not in NOT_SEEN | ON_JAX
        for test in tests
        if test in seen and site not in seen[test]
    )
