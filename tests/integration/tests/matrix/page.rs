//! docs/channels.md, written from the tables of the matrix. `CUSTODIAN_TEST_ACCEPT=1` writes the file.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use integration::Result;

use crate::channels::{self, Asks, Channel};
use crate::peers::{KINDS, Kind, PEERS};
use crate::rule::{Expected, Mode, expected};

const HEAD: &str = "\
# Channels: every way out, and what happens there

Each line of these tables is tried on real nodes: every channel by every peer, with all gates `on` and in `warn`. The page is
written from the tables of that test (`tests/integration/tests/matrix/`); the last table names the tests it rests on.

- **passes**: it works, and the guard records nothing. Where the channel carries values, the test looks for a canary, a value of
  a tagged column, in what arrived, and finds it: otherwise the next line would prove nothing.
- **refused**: one error with SQLSTATE 42501, a DETAIL and a HINT reaches the peer, and an event of the gate is in
  `custodian.guard_events`. In all that the peer got (output, files, dumps, WAL) there is no canary, as text, in hexadecimal digits or in base64.
- In `warn` everything passes, and the gate that would refuse it records that.
- Whoever fails to authenticate gets the server's own error (28P01) on every channel, and the guard records nothing.

The tests of all tables but the last are `every_channel_is_open_to_whom_it_may_be_and_closed_to_all_others_when_gates_are_on` and
`every_channel_passes_in_warn_and_what_on_would_refuse_is_recorded`, in `matrix/main.rs`.
`make test` runs each channel with each kind of peer once, in the two modes by turns; `make test-matrix` runs every cell.
Without network namespaces the peers that are known by a certificate are tried, and the rest is reported as not run.

## Who asks
";

/// What other tests show, which need another arrangement than a peer that asks: channel, gate, outcome, file, test.
const ELSEWHERE: [(&str, &str, &str, &str, &str); 47] = [
    (
        "a standby inside copies and follows; one outside gets nothing more",
        "login",
        "refused outside",
        "guard",
        "inside_replicates_and_outside_is_refused",
    ),
    (
        "a subscription of a node outside, and its initial copy",
        "login",
        "only by a lane",
        "guard_lanes",
        "a_lane_lets_the_initial_copy_and_changes_through_and_only_to_the_receiver",
    ),
    (
        "rows whose consent or residency does not let them go",
        "login",
        "only through a row filter that is proved",
        "guard_lanes",
        "rows_with_a_condition_cross_only_through_a_filter_that_is_proved",
    ),
    (
        "what streams already, when its lane does not fit any more",
        "sentinel",
        "ended",
        "guard_lanes",
        "what_runs_on_a_lane_is_ended_when_the_lane_does_not_fit_any_more",
    ),
    (
        "a standby that other rules put outside",
        "sentinel",
        "ended",
        "guard_lanes",
        "a_standby_that_other_rules_put_outside_is_ended",
    ),
    (
        "sessions on a standby outside the residency",
        "access",
        "refused, local ones too",
        "guard_lanes",
        "a_standby_outside_the_residency_serves_no_tagged_data_even_to_its_own",
    ),
    (
        "sessions and peers of a standby that has its region from another node's files",
        "access, login",
        "a finding; refused once a `node` line says otherwise",
        "guard_told",
        "a_standby_elsewhere_does_not_keep_the_region_that_it_was_copied_with",
    ),
    (
        "changes of tags from outside that would let others read, lanes that are opened there, and writes to catalogs and tables of the extension",
        "access, ddl",
        "refused, to superusers and stewards too",
        "guard_settings",
        "nobody_outside_opens_a_column_by_its_tag_or_past_it_not_even_a_superuser",
    ),
    (
        "rows that somebody keeps below the tables of transfers, lanes and permitted publications",
        "ddl",
        "count for nothing",
        "guard_transfers",
        "a_row_of_an_inheriting_table_is_no_transfer",
    ),
    (
        "sessions and walsenders of a node that cannot read its own addresses",
        "access, sentinel",
        "what runs goes on; who comes is refused until it can",
        "guard_addresses",
        "a_node_that_cannot_read_its_addresses_keeps_its_place_and_lets_nobody_new_in_until_it_can",
    ),
    (
        "jobs of pg_cron, in background workers and over connections",
        "access",
        "passes in workers; over connections as any session",
        "pg_cron",
        "jobs_of_pg_cron_in_background_workers_are_the_servers_own_and_over_connections_are_somebodys",
    ),
    (
        "tables of the extension in a publication of all tables that was there before it",
        "ddl",
        "a finding; no table more joins",
        "guard_published",
        "the_extension_comes_to_a_database_where_all_tables_are_published",
    ),
    (
        "what streams on a lane, when a row filter is dropped",
        "ddl, sentinel",
        "refused; ended where it passes",
        "guard_receivers",
        "a_dropped_row_filter_is_refused_and_where_it_passes_ends_the_lane",
    ),
    (
        "what streams on a lane, when another publication gets the name of the lane's",
        "ddl",
        "refused",
        "guard_receivers",
        "no_other_publication_takes_the_name_of_that_of_a_lane_and_what_ends_a_lane_is_said",
    ),
    (
        "what streams on a lane whose transfer is revoked, or whose column gets another tag",
        "sentinel",
        "said in a NOTICE, and ended",
        "guard_receivers",
        "no_other_publication_takes_the_name_of_that_of_a_lane_and_what_ends_a_lane_is_said",
    ),
    (
        "what a gate refuses that is `off`",
        "each",
        "passes, and nothing is recorded",
        "guard_settings",
        "a_gate_that_is_off_lets_pass_what_it_refused_and_records_nothing",
    ),
    (
        "settings in an edited file",
        "settings",
        "the old value stays",
        "guard_channels",
        "channel_settings_by_file_keep_the_old_value",
    ),
    (
        "`archive_command`, `archive_library`, `restore_command`, `archive_cleanup_command`, `recovery_end_command`, `ssl_passphrase_command` and `primary_conninfo`, by `ALTER SYSTEM`",
        "settings",
        "refused, but for values that the rules name, a `primary_conninfo` that leads inside, and empty ones",
        "guard_channels",
        "channel_settings_by_alter_system",
    ),
    (
        "`log_destination`, `log_directory` and `log_filename`, by `ALTER SYSTEM`",
        "settings",
        "refused, but for values that the rules name, and those that keep the log in the data directory",
        "guard_channels",
        "channel_settings_by_alter_system",
    ),
    (
        "`shared_preload_libraries` by `ALTER SYSTEM`",
        "settings",
        "refused without this library, emptied too; so is `RESET` where `ALTER SYSTEM` has set the value in force",
        "guard_channels",
        "channel_settings_by_alter_system",
    ),
    (
        "these, but for `shared_preload_libraries`, by included files and `postgresql.auto.conf`, and on the server's command line",
        "settings",
        "the old value stays; emptied, or a finding",
        "guard_settings",
        "no_way_to_set_a_setting_leads_past_the_gate",
    ),
    (
        "all of these, and those of the gates, for sessions, roles, databases and functions",
        "settings",
        "refused by the server itself (55P02)",
        "guard_settings",
        "no_way_to_set_a_setting_leads_past_the_gate",
    ),
    (
        "settings of the guard, by `ALTER SYSTEM` from outside",
        "settings",
        "refused, a superuser too, and so is `RESET ALL`",
        "guard_settings",
        "no_way_to_set_a_setting_leads_past_the_gate",
    ),
    (
        "settings at the start of the server",
        "settings",
        "emptied, or a finding",
        "guard_channels",
        "channel_settings_at_server_start",
    ),
    (
        "WAL that `archive_command` ships outside",
        "settings, sentinel",
        "only while each database has a lane for it",
        "guard_archive",
        "wal_is_archived_outside_only_while_each_database_has_an_open_lane",
    ),
    (
        "archiving on lanes when a transfer ends, or when there is something that nobody has reviewed",
        "settings, sentinel",
        "stopped",
        "guard_archive",
        "archiving_stops_with_the_transfer_and_for_what_nobody_has_reviewed",
    ),
    (
        "reads and writes, and TRUNCATE, of foreign tables whose server is not allowed any more, views, partitions, prepared statements and functions included",
        "access",
        "refused, inside too",
        "guard_foreign",
        "a_foreign_table_is_used_only_while_the_rules_allow_its_server",
    ),
    (
        "user mappings",
        "ddl",
        "refused",
        "guard_foreign",
        "user_mappings_are_judged_by_their_server",
    ),
    (
        "details of errors, caught ones too",
        "access",
        "show outside what the session sent itself",
        "guard_told",
        "details_of_errors_show_a_session_outside_only_what_it_sent",
    ),
    (
        "a standby outside that keeps coming back",
        "login",
        "recorded once, with a count",
        "guard_told",
        "a_standby_that_keeps_coming_back_is_recorded_once_with_a_count",
    ),
    (
        "foreign servers by name, service or several hosts, wrappers with a handler of one's own, IMPORT FOREIGN SCHEMA",
        "ddl",
        "refused",
        "guard_channels",
        "channel_foreign_servers_tablespaces_and_extensions",
    ),
    (
        "COPY with files and programs, from outside",
        "access",
        "refused",
        "guard_channels",
        "channel_copy_with_files_and_programs_from_outside",
    ),
    (
        "publications that grow: SET LOGGED, ATTACH PARTITION, CREATE TABLE AS, SELECT INTO, tags taken off",
        "ddl",
        "refused",
        "guard_channels",
        "channel_publications_that_grow_without_being_named",
    ),
    (
        "functions of extensions",
        "access",
        "refused outside",
        "guard_channels",
        "channel_functions_of_extensions_from_outside",
    ),
    (
        "functions of the server that read past tables",
        "access, replication",
        "refused outside",
        "guard_paths",
        "functions_that_read_past_tables_are_refused_from_outside",
    ),
    (
        "rows by their own residency: which queries are proved, and which are not",
        "access",
        "refused outside where they are not",
        "guard_rows",
        "rows_pass_by_their_own_residency_and_nothing_of_others_is_told",
    ),
    (
        "what a lane says of slot, plugin, publications and messages, field by field",
        "replication",
        "refused where one differs",
        "guard_lanes",
        "a_lane_lets_the_initial_copy_and_changes_through_and_only_to_the_receiver",
    ),
    (
        "copies of tables whose rows say where they may be",
        "access",
        "no residency is stated of them, so refused outside",
        "guard_rows",
        "copies_of_rows_with_a_residency_of_their_own_may_be_nowhere_else",
    ),
    (
        "another column in the place of the one that says where rows may be",
        "ddl",
        "refused to anybody while a tag names it",
        "guard_rows",
        "an_owner_puts_no_other_column_in_the_place_of_the_residency",
    ),
    (
        "operators that the planner calls on values of statistics",
        "access",
        "not called from outside",
        "guard_rows",
        "the_planner_shows_no_statistics_to_operators_of_a_session_outside",
    ),
    (
        "errors, row security and triggers of an UPDATE or DELETE",
        "access",
        "refused outside",
        "guard_paths",
        "rows_are_not_shown_by_errors_policies_and_triggers_of_a_change",
    ),
    (
        "`pg_dump` and `pg_restore` inside, and `pg_upgrade`",
        "none",
        "unharmed",
        "guard_unharmed",
        "dumps_restores_and_upgrades_are_unharmed",
    ),
    (
        "`pg_rewind` of a node inside",
        "none",
        "unharmed",
        "guard_unharmed",
        "a_former_primary_is_rewound_over_the_network",
    ),
    (
        "what a cluster manager such as Patroni asks by SQL, and an exporter, over the unix socket and loopback",
        "none",
        "unharmed once a `local` line names their roles",
        "guard_unharmed",
        "a_cluster_manager_and_an_exporter_work_once_their_roles_are_named",
    ),
    (
        "logical replication inside the region",
        "none",
        "unharmed",
        "guard_unharmed",
        "logical_replication_inside_is_unharmed",
    ),
    (
        "pgbouncer in transaction mode",
        "none",
        "unharmed, by a certificate or a local role",
        "guard_unharmed",
        "a_pooler_in_transaction_mode_is_unharmed",
    ),
    (
        "parallel workers, other extensions' workers, and errors of other code",
        "none",
        "unharmed",
        "guard_unharmed",
        "parallel_and_background_workers_and_errors_of_other_code_are_unharmed",
    ),
];

fn word(expected: Expected) -> &'static str {
    match expected {
        Expected::NoSuchCell => "",
        Expected::NotAuthenticated => "not authenticated",
        Expected::Passes => "passes",
        Expected::Warned(_) => "recorded",
        Expected::Refused(_) => "refused",
    }
}

/// What happens to the peers of these kinds: the same for all of them, or the page would not be true.
fn outcome(channel: &Channel, kinds: impl Fn(Kind) -> bool) -> String {
    let mut words: Vec<_> = PEERS
        .iter()
        .filter(|peer| kinds(peer.kind))
        .map(|peer| word(expected(channel, peer, Mode::On)))
        .filter(|word| !word.is_empty())
        .collect();
    words.dedup();
    match words.as_slice() {
        [] => "–".to_owned(),
        [word] => (*word).to_owned(),
        _ if matches!(channel.asks, Asks::RowsOfEu(_)) => {
            "passes to peers in eu of the same organisation; else refused".to_owned()
        }
        _ => panic!("{}: {words:?}", channel.name),
    }
}

fn gate(channel: &Channel) -> String {
    match channel.asks {
        Asks::Physical => "login".to_owned(),
        Asks::TheLane => "login".to_owned(),
        Asks::Logical(gate) => format!("login; by a lane {}", gate.name()),
        Asks::Session(gate)
        | Asks::RowsOfEu(gate)
        | Asks::Destination(gate)
        | Asks::Named(gate)
        | Asks::Never(gate) => gate.name().to_owned(),
    }
}

fn text() -> String {
    let mut page = HEAD.to_owned();
    page += "\n| kind | peers |\n|---|---|\n";
    for kind in KINDS {
        let peers: Vec<_> = PEERS
            .iter()
            .filter(|peer| peer.kind == kind)
            .map(|peer| peer.name)
            .collect();
        let _ = writeln!(page, "| {} | {} |", kind.title(), peers.join("; "));
    }
    let mut groups: Vec<&str> = Vec::new();
    for channel in channels::all() {
        if !groups.contains(&channel.group) {
            groups.push(channel.group);
        }
    }
    for group in groups {
        let _ = write!(
            page,
            "\n## {group}\n\n| channel | in the region | lane fits | everybody else | gate |\n|---|---|---|---|---|\n"
        );
        for channel in channels::all().filter(|channel| channel.group == group) {
            let _ = writeln!(
                page,
                "| {} | {} | {} | {} | {} |",
                channel.name,
                outcome(channel, |kind| kind == Kind::InRegion),
                outcome(channel, |kind| kind == Kind::LaneFits),
                outcome(channel, |kind| !matches!(
                    kind,
                    Kind::InRegion | Kind::LaneFits | Kind::Unauthenticated
                )),
                gate(channel),
            );
        }
        match group {
            channels::OPENS => {
                page += "\nHere the peer is where the connection leads to, and its address is all that is known of it.\n"
            }
            channels::SHIPS => {
                page += "\nHere the place is what a `setting` or `tablespace` line of the rules says of the value.\n"
            }
            channels::GROWS => page += "\nHere it does not matter who asks.\n",
            _ => {}
        }
    }
    page += "\n## Shown by other tests\n\n| what | gate | outcome | test in `tests/integration/tests/` |\n|---|---|---|---|\n";
    for (what, gate, outcome, file, test) in ELSEWHERE {
        let _ = writeln!(
            page,
            "| {what} | {gate} | {outcome} | `{file}.rs`: `{test}` |"
        );
    }
    page += "\nWhat no gate sees is in [limits.md](limits.md).\n";
    page
}

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Fails unless the page is what the tables say, and the other tests that it names are there.
pub fn check() -> Result<()> {
    for (_, _, _, file, test) in ELSEWHERE {
        let source = fs::read_to_string(top().join(format!("tests/integration/tests/{file}.rs")))?;
        assert!(
            source.contains(&format!("fn {test}()")),
            "there is no test {test} in {file}.rs"
        );
    }
    let path = top().join("docs/channels.md");
    let text = text();
    if std::env::var_os("CUSTODIAN_TEST_ACCEPT").is_some() {
        fs::write(&path, &text)?;
    }
    assert_eq!(
        fs::read_to_string(&path).unwrap_or_default(),
        text,
        "docs/channels.md is out of date: run this test with CUSTODIAN_TEST_ACCEPT=1"
    );
    Ok(())
}
