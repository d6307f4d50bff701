-- Privileges. Nothing is for PUBLIC unless it is granted here, by name.
REVOKE ALL ON ALL TABLES IN SCHEMA custodian FROM PUBLIC;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA custodian FROM PUBLIC;
REVOKE EXECUTE ON ALL ROUTINES IN SCHEMA custodian FROM PUBLIC;

-- Evidence. What these show or do is for stewards: they check that themselves.
GRANT EXECUTE ON FUNCTION custodian.ledger_body(text) TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.ledger_head() TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.pending_events() TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.require_steward(text) TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.rotate_pseudonym_key() TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.seal_ledger() TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.verify_ledger(text) TO PUBLIC;
GRANT SELECT ON custodian.guard_events, custodian.ledger TO PUBLIC;

-- Guard. Value-free answers for everybody.
GRANT EXECUTE ON FUNCTION custodian.check_peer(inet, text, text, text) TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.check_rules(text) TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.suggest_rules() TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.would_end(text) TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.read_region_files() TO PUBLIC;
GRANT SELECT ON custodian.region_rules TO PUBLIC;

-- Plan. What they show, they check for themselves; those on pseudonyms answer only inside a sweep or preview,
-- which runs with the rights of a table's owner.
GRANT EXECUTE ON FUNCTION custodian.estimate_preview(regclass, timestamptz) TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.explain_purposes(regclass, jsonb, timestamptz) TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.explain_row(regclass, jsonb, timestamptz) TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.preview(regclass, timestamptz) TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.sweep_is_pseudonym(text) TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.sweep_pseudonym(text) TO PUBLIC;

-- Status: one row for everybody; the checks are for stewards and pg_monitor, and ask for that themselves.
GRANT EXECUTE ON FUNCTION custodian.check() TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.settings_gate() TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.status_row() TO PUBLIC;
GRANT SELECT ON custodian.status TO PUBLIC;

-- Tags. What they write, they check for themselves: owners add and tighten, stewards do the rest.
GRANT EXECUTE ON FUNCTION custodian.clear_column(regclass, text) TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.define_purpose(text, text, interval, text, boolean, text) TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.end_purpose(text, timestamptz) TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.forbid_publication(text) TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.permit_publication(text, text[], text) TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.read_tags() TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.require_minimum(text, regclass, text[], interval, text, text) TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.tag_column(regclass, text, text, text[], text, text[], text, text, text[], boolean) TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.tag_table(regclass, text, text, text[], text[], text, text, text, text, text) TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.untag_column(regclass, text, text[]) TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.untag_table(regclass) TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.declare_dependents(regclass, text[]) TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.declare_defence(text, regclass, text[], interval, text, text) TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.declare_subscriber_disposal(text, text) TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.withdraw_subscriber_disposal(text) TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.suspend_defence(text, timestamptz) TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.resume_defence(text, timestamptz) TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.enforce_minimum(text, text) TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.require_maximum(text, regclass, text[], interval, text, text) TO PUBLIC;
GRANT SELECT ON custodian.maximums, custodian.suspensions TO PUBLIC;
GRANT SELECT ON custodian.minimums, custodian.publication_permits, custodian.purposes, custodian.subscriber_disposals, custodian.tags TO PUBLIC;

-- Consents. To record and withdraw them is for applications: the DBA grants that. The view asks for a steward itself;
-- the functions that sweeps ask by answer only inside a sweep or preview.
GRANT EXECUTE ON FUNCTION custodian.sweep_consent(text, text, text[], timestamptz) TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.sweep_consents(text, text, text[]) TO PUBLIC;
GRANT SELECT ON custodian.consents TO PUBLIC;

-- Erasures. To ask for one is for applications: the DBA grants that. These ask for a steward themselves, and the
-- functions that sweeps ask by answer only inside a sweep or preview.
GRANT EXECUTE ON FUNCTION custodian.sweep_erased(text, text[], timestamptz[], timestamptz) TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.sweep_erasures(text, text[]) TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.find_returned() TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.repeat_erasures() TO PUBLIC;
GRANT SELECT ON custodian.erasures TO PUBLIC;

-- The policy as one document: what it shows, the views show; what it writes, it checks as the single functions do.
GRANT EXECUTE ON FUNCTION custodian.apply_policy(jsonb, boolean) TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.export_policy() TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.full_policy_as_of(timestamptz) TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.policy_as_of(timestamptz) TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.policy_of_epoch(bigint) TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.record_policy() TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.simulate(jsonb) TO PUBLIC;

-- The worker. The functions check for a steward themselves; the views hold no values.
GRANT EXECUTE ON FUNCTION custodian.approve_run(bigint, text) TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.sweep_now(regclass) TO PUBLIC;
GRANT EXECUTE ON PROCEDURE custodian.sweep(regclass) TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.pause(text, regclass) TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.resume(text, regclass) TO PUBLIC;
GRANT SELECT ON custodian.metrics, custodian.pauses, custodian.progress, custodian.quarantined_rows, custodian.run_items, custodian.runs, custodian.watermarks TO PUBLIC;

-- Legal holds: for stewards, which the functions and the view check for themselves.
GRANT EXECUTE ON FUNCTION custodian.install_row_guard() TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.place_hold(text, text, date, text, regclass, text, text[], jsonb) TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.release_hold(bigint, text, text) TO PUBLIC;
GRANT SELECT ON custodian.former_hold_names, custodian.holds TO PUBLIC;

-- Lawful bases: for everyone to see; the function checks for a steward itself.
GRANT EXECUTE ON FUNCTION custodian.define_lawful_basis(text, text, text, boolean, text, date, date) TO PUBLIC;
GRANT SELECT ON custodian.lawful_bases, custodian.lawful_basis_versions TO PUBLIC;

-- Reports. Waivers and findings are for stewards, which is asked where they are read; the schedule holds no values.
GRANT EXECUTE ON FUNCTION custodian.check_all() TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.overdue_now(regclass) TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.review_coverage(regclass, integer) TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.revoke_waiver(bigint, text) TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.scheduled_columns() TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.suggest_tags(regclass, integer) TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.waive(text, text, text, text, timestamptz) TO PUBLIC;
GRANT SELECT ON custodian.advice, custodian.coverage, custodian.enforcement_uptime, custodian.overdue, custodian.retention_schedule, custodian.waivers TO PUBLIC;

-- Transfers and lanes: for stewards, which the functions and the views check for themselves.
GRANT EXECUTE ON FUNCTION custodian.approve_transfer(text, text) TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.close_lane(bigint, text, text) TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.open_archive_lane(text, text) TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.open_lane(text, text, text, text[], inet, text, text, text) TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.publication_filter(regclass, text) TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.register_transfer(text, text, text, text, text, text[], text[], text, text, text, text, text, text, timestamptz, text, text[]) TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.revoke_transfer(text, text, text) TO PUBLIC;
GRANT SELECT ON custodian.archive_lanes, custodian.lanes, custodian.transfers TO PUBLIC;

-- Comments of functions, written from their docstrings by tests/integration/tests/comments.rs.
COMMENT ON ROUTINE custodian.apply_policy IS 'Makes the declared policy what a document says, and returns the difference, one row for each change: the object, what happens to it, how it was and will be, and whether data may stay longer or go further than before. All changes are made, or none. With dry_run (the default) none is; the document is checked all the same.';
COMMENT ON ROUTINE custodian.approve_run IS 'Approves a run that waits. It then executes with its own cutoff, in the next round of the scheduler or in custodian.sweep_now(). reason goes to the ledger. For stewards.';
COMMENT ON ROUTINE custodian.approve_transfer IS 'Approves a transfer. Only a data steward may, and not the one who registered it: both are known by the role they connected as. It opens nothing yet; see custodian.open_lane().';
COMMENT ON ROUTINE custodian.break_glass IS 'Lets the gates of the region guard warn instead of refusing, for duration (at most 8 hours), in the whole cluster and from this moment, whether or not the transaction commits. Only a superuser may who is connected over the unix socket. second_person is the role of somebody else who knows of it. What passes meanwhile is recorded as warned. It ends by itself, by custodian.end_break_glass(), and with a restart of the server. Holds and minimums are not touched by it.';
COMMENT ON ROUTINE custodian.check IS 'Everything that is wrong and that a person must see: one row each, errors first, with what to do. What a steward has waived is left out: custodian.check_all() shows that as well. For stewards and members of pg_monitor.';
COMMENT ON ROUTINE custodian.check_all IS 'What custodian.check() says, and what it leaves out: a finding that is waived has the waiver''s number, who answers for it, and when it ends. For stewards and members of pg_monitor.';
COMMENT ON ROUTINE custodian.check_peer IS 'What the region rules in force say about a peer with this address, with a verified certificate of this issuer and subject (distinguished names as in pg_stat_ssl), that connects as role_name. Without any of them: about a connection over the unix socket. The role defaults to the session''s. Nothing is recorded. Fails with SQLSTATE 55000 when the library is not preloaded.';
COMMENT ON ROUTINE custodian.check_rules IS 'What is wrong with the text of a rules file, line by line; no row when it would be used. From a shell: psql -v rules="$(cat file)" <<< "SELECT * FROM custodian.check_rules(:''rules'')".';
COMMENT ON ROUTINE custodian.clear_column IS 'Clears a column: reviewed, and no personal data. Only a data steward may; a cleared column may cross every border, and is never disposed of by itself.';
COMMENT ON ROUTINE custodian.close_lane IS 'Closes a lane; what runs on it is ended within seconds. Only a data steward may. The last position that the receiver confirmed stays on record, and in recall_notice what it was told about the data that it has. The slot stays: drop it, or it keeps WAL. Of an archive lane the last file that was archived stays on record; the server stops archiving within seconds.';
COMMENT ON ROUTINE custodian.create_missing_keys IS 'Makes a key for each use that has none; returns how many were made. CREATE EXTENSION calls it once. For superusers.';
COMMENT ON ROUTINE custodian.declare_defence IS 'Declares a claim defence: columns are kept for a limitation period, so that claims can be answered. Only a data steward may.';
COMMENT ON ROUTINE custodian.declare_dependents IS 'Declares which untagged tables do not keep rows of a tagged one from being deleted. Only a data steward may.';
COMMENT ON ROUTINE custodian.declare_subscriber_disposal IS 'Declares that the subscribers of a publication dispose of data by themselves, by policies of their own: its partitions are dropped whole once all of their rows are due, though no subscriber is told of that. Only a data steward may.';
COMMENT ON ROUTINE custodian.define_lawful_basis IS 'Adds a lawful basis, or a new version of one, to those that purposes may rest on. Only a data steward may.';
COMMENT ON ROUTINE custodian.define_purpose IS 'Defines a purpose, or changes the period of one that exists. Only a data steward may.';
COMMENT ON ROUTINE custodian.end_break_glass IS 'Ends break-glass before its time. The gates refuse again from this moment. Only a superuser may who is connected over the unix socket.';
COMMENT ON ROUTINE custodian.end_purpose IS 'Ends a purpose: from at on it covers nothing. Only a data steward may. NULL means now, by the extension''s clock; a purpose that has ended stays so, an end that is still to come can be moved.';
COMMENT ON ROUTINE custodian.enforce_minimum IS 'Says what a user''s own statement meets that would destroy what a statutory minimum keeps: refuse, as for every new minimum, or warn: it passes with a WARNING, which is recorded as refusals are. Only a data steward may.';
COMMENT ON ROUTINE custodian.erase_subject IS 'Erases a subject, in the caller''s transaction: optional purposes, and those by consent, count as ended for it in every table whose tag names its kind. Required purposes, minimums, claim defences and legal holds keep what they keep. The rights to call it are the application''s: the DBA grants EXECUTE.';
COMMENT ON ROUTINE custodian.estimate_preview IS 'A preview that does not read all of a big table: of a leaf of more than 32 MB it looks at that much, in blocks taken at random, and multiplies. estimated says where it did; smaller leaves are counted. What few rows are due for may not be met by the sample, and then is not listed. Arguments and rights are those of preview.';
COMMENT ON ROUTINE custodian.explain_purposes IS 'For what each tagged cell of one row may be used at as_of (now, by default): one row for each cell and purpose, since a purpose ends for use at its own date although the cell stays for another one, a minimum or a hold. usable is NULL where it cannot be told: a clock is missing although the tag calls that a violation, a consent is needed and the tag does not say whose, or the tag is not resolved (then purpose is NULL as well). A purpose by consent without one on record is not usable, nor is one whose lawful basis has ended or is none (basis-invalid of check()), although sweeps keep the cell; a law is not asked about days before it was in force. until is the end, or, once it is over, when that was. Arguments and rights are those of explain_row; values of cells are never shown.';
COMMENT ON ROUTINE custodian.explain_row IS 'Why each tagged cell of one row is kept or due at as_of (now, by default): its state (active, blocked, due, disposed, held, unresolved), what decides it, until when (for a due cell: since when), the law cited, and an explanation. key names the row by columns and values, such as {"id": 42}, and must fit exactly one. Values of cells are never shown. For the table''s owner and stewards.';
COMMENT ON ROUTINE custodian.export_keys IS 'The keys of this database, as text for custodian.import_keys(). Whoever has it can link every pseudonym to its value again. For superusers.';
COMMENT ON ROUTINE custodian.export_policy IS 'Everything that is declared in this database, as one document: purposes with every period they had, laws, the labels of tables and columns, permitted publications, and those whose subscribers dispose by themselves. By names, never by OIDs; two exports of the same policy are equal. Legal holds, consents and keys are not in it: they are about persons and matters, and are kept where they are; nor are lawful bases that stewards added. A label that cannot be read is left out, with a warning.';
COMMENT ON ROUTINE custodian.find_returned IS 'Counts, by table, the rows of erased subjects that are there again, or still, and that the erasure lets nothing keep: what repeat_erasures would dispose of. A row counts once for each way in which it would change. For data stewards.';
COMMENT ON ROUTINE custodian.forbid_publication IS 'Takes back the permission for a publication. Only a data steward may. The publication itself stays as it is: drop it, or the subscription, to end a flow that runs.';
COMMENT ON ROUTINE custodian.import_keys IS 'Stores the keys of a text of custodian.export_keys(); returns how many this database did not have yet. A key that its configuration does not know, or whose fingerprint differs, is refused. For superusers.';
COMMENT ON ROUTINE custodian.install_row_guard IS 'Puts the row guard''s triggers on every table that legal holds or statutory minimums concern and that lacks them, and takes them off where nothing needs them. The extension does so by itself when holds, tags, keys or partitions change and while a dump is restored; custodian.check() says when it is needed. For data stewards. Waits for the transactions that write to a table that needs a trigger.';
COMMENT ON ROUTINE custodian.ledger_body IS 'The body of a ledger entry, NULL when its fields are not what the extension writes: an entry that was edited must not hide the others.';
COMMENT ON ROUTINE custodian.ledger_head IS 'The end of the sealed ledger, to be kept where the administrators of this server cannot write: v1:block:hash:entries:unsealed. The last number counts entries that are in no block yet, for which this head does not vouch. For stewards.';
COMMENT ON ROUTINE custodian.open_archive_lane IS 'Opens a lane for an approved transfer by which archive_command may ship WAL to where the rules of the region do not let it. Only a data steward may. Returns the lane''s number; custodian.close_lane() closes it.';
COMMENT ON ROUTINE custodian.open_lane IS 'Opens a lane for an approved transfer: the one role, network and/or certificate issuer, database, slot, output plugin and publications by which logical replication may leave. Only a data steward may. Returns the lane''s number.';
COMMENT ON ROUTINE custodian.overdue_now IS 'What is past its time and still there, now: one row for each disposal that is due, and one (keep) for each legal hold and each referring table that keeps rows after their time. overdue_since is when the oldest of the rows became due under the policy in force; it may have been earlier by a thirtieth of the time since then, or by a minute. why says why it is still there. What a law keeps is not overdue.';
COMMENT ON ROUTINE custodian.pause IS 'Pauses disposal of a table with its partitions, or of every table when rel is NULL, until custodian.resume(). A batch that runs is waited for; when the call returns and its transaction commits, no other begins. Planning and counting go on. reason goes to the ledger. For stewards.';
COMMENT ON ROUTINE custodian.pending_events IS 'Events of the guard that wait for the ledger of this database, or of none, and those that it took since this transaction began, which may not see them there. For stewards.';
COMMENT ON ROUTINE custodian.permit_publication IS 'Permits a publication to carry tagged columns to subscribers in these regions. Only a data steward may.';
COMMENT ON ROUTINE custodian.place_hold IS 'Places a legal hold and returns its number. It lies on a subject (subject_kind, subject_key), on a table (rel) or on the rows of a table whose columns have given values (rel, match, as in ''{"invoice_no":["A1","A2"]}'': all columns, any of the values). Held rows cannot be deleted, truncated, dropped or detached, and their tagged columns, and those the hold finds them by, cannot be changed, by anybody, until the hold is released; it never expires by itself.';
COMMENT ON ROUTINE custodian.policy_as_of IS 'The policy that was in force at a moment, in full: that of the last epoch before it, by the server''s own clock.';
COMMENT ON ROUTINE custodian.policy_of_epoch IS 'The policy of an epoch in full, as export_policy() gave it then: with the names of that time. Epochs that one transaction began came into force together, with the last of them. 0 is the policy before the first change.';
COMMENT ON ROUTINE custodian.preview IS 'What the policy asks for at as_of (now, by default), without doing any of it: one row for each disposal that is due, one for each other table whose rows go along, and one for each reason why cells or rows that no purpose covers are kept back. A row that goes is counted once, under its own table where that was asked for as well. rel limits it to one table or partition, whose owner the caller must be; stewards see every table, others those they own. Counts run with the rights of each leaf''s owner; one that fails is a row that says why.';
COMMENT ON ROUTINE custodian.preview_erasure IS 'What erase_subject would answer, without touching anything. A row that only rows of another table keep, which are themselves the subject''s and go, counts as going. The rights to call it are the application''s: the DBA grants EXECUTE.';
COMMENT ON ROUTINE custodian.publication_filter IS 'The row filter that a publication of a table needs under a transfer, to be put between the parentheses of CREATE PUBLICATION … FOR TABLE … WHERE (…). It is true when any row may go.';
COMMENT ON ROUTINE custodian.read_region_files IS 'Each line of the region rules file, and of files that it includes, that is neither empty nor a comment, as the files are now: its number, the type of the rule, its other words, the region and organisation it assigns, what is wrong with it, whether the same line is in force (loaded), and the included file that it stands in. A file that cannot be read is one row with an error.';
COMMENT ON ROUTINE custodian.read_tags IS 'The labels of all tables and columns, as they were declared, with typed fields. A label that cannot be parsed says so in problem. A path inside documents has a row of its own, named column.key.key.';
COMMENT ON ROUTINE custodian.record_consent IS 'Records that a subject consented to a purpose. The rights to call it are the application''s: the DBA grants EXECUTE.';
COMMENT ON ROUTINE custodian.record_policy IS 'Records the policy as it is, where it was changed by other means than functions and statements: by a restore, or a superuser''s edit of a table. Returns the epoch that it is recorded under, NULL when everything was. The worker does the same within a minute. Only a data steward may.';
COMMENT ON ROUTINE custodian.register_transfer IS 'Registers a transfer of personal data to another region or organisation. Only a data steward may. It opens nothing: another steward approves it, and a lane is opened for it then.';
COMMENT ON ROUTINE custodian.release_hold IS 'Releases a legal hold. Its record stays. What it kept back and is due goes with the next sweep.';
COMMENT ON ROUTINE custodian.repeat_erasures IS 'Carries out the erasures on record once more, without waiting for sweeps, which do the same in their time: for rows of erased subjects that a restore or an import brought back, and for what something kept when the subject was erased and nothing keeps now. For data stewards.';
COMMENT ON ROUTINE custodian.require_maximum IS 'Requires that no purpose covers columns for longer than a law allows. Only a data steward may.';
COMMENT ON ROUTINE custodian.require_minimum IS 'Requires that columns are kept for a period that a law demands. Only a data steward may.';
COMMENT ON ROUTINE custodian.require_steward IS 'True for a steward, an error for everybody else; views of what only stewards may see ask it first. action completes "must be a data steward to …".';
COMMENT ON ROUTINE custodian.resume IS 'Ends a pause of a table, or of every table when rel is NULL; pauses of single tables stay then. Where the scheduler paused by itself, since the clock jumped or the cluster was restored, this is the approval to go on, and reason goes to the ledger with it. For stewards.';
COMMENT ON ROUTINE custodian.resume_defence IS 'Resumes the period of a claim defence that was suspended, from at (now, by default). Only a data steward may.';
COMMENT ON ROUTINE custodian.review_coverage IS 'One row for each table, its partitions included: how many columns it has, how many are tagged, cleared and unreviewed, and which of the unreviewed look personal. With sample_rows, also by the values of so many rows of each table, which reads every table that is asked for; without, by names, types and comments alone, from catalogs. Stewards see all tables, members of pg_monitor too where no values are read, others those they own.';
COMMENT ON ROUTINE custodian.revoke_transfer IS 'Revokes a transfer and closes its lanes; what runs on them is ended within seconds. Only a data steward may. recall_notice says what the receiver was told about the data that it has.';
COMMENT ON ROUTINE custodian.revoke_waiver IS 'Ends a waiver before it expires: the finding is reported again. Only a data steward may; reason goes to the ledger.';
COMMENT ON ROUTINE custodian.rotate_pseudonym_key IS 'Makes a new key for the method hmac and returns its id: pseudonyms are made with it from now on. Those that earlier keys made stay as they are and are still recognised, since their keys stay; equal values get different pseudonyms before and after. For data stewards.';
COMMENT ON ROUTINE custodian.scheduled_columns IS 'Each tagged column, and each tagged path inside documents, with each purpose, minimum and maximum that its tag names; tags are those in force, ancestors'' merged with a relation''s own. on_expiry is the column''s method, or delete where it goes with its row alone.';
COMMENT ON ROUTINE custodian.seal_ledger IS 'Moves the guard''s events into the ledger and seals it now, rather than in the scheduler''s next round; returns the number of the last block, 0 for an empty ledger. In a subtransaction (a block with an EXCEPTION clause) events are left for the scheduler. For stewards.';
COMMENT ON ROUTINE custodian.settings_gate IS 'The mode of the gate for settings that ship data: off, warn or on. Works for everybody.';
COMMENT ON ROUTINE custodian.simulate IS 'What a changed policy would make due at once, or due no longer, without changing anything: the lines of preview() that would be others, with the rows of each now and then. policy is a document as apply_policy() takes it. Rows are counted as a preview counts them; NULL where that failed, or nothing is counted. For stewards.';
COMMENT ON ROUTINE custodian.status_row IS 'The one row of custodian.status. Works without preloading and for everybody.';
COMMENT ON ROUTINE custodian.suggest_rules IS 'Lines for the rules file that would say where peers are whose region was unknown when the guard warned about or refused them, with why and how often that was. REGION and ORGANISATION are for you to fill in: a file that still has them is not used. For stewards.';
COMMENT ON ROUTINE custodian.suggest_tags IS 'The columns of a table that look personal and are not tagged: by their names and comments, in English and Chinese, by their types, and by the values of up to sample_rows rows, at most 100,000, 0 for none. Columns that were cleared are told as well.';
COMMENT ON ROUTINE custodian.suspend_defence IS 'Suspends the period of a claim defence from at (now, by default) until resume_defence. Only a data steward may. Suspended time does not count: the defence keeps cells for as much longer, unless it had lapsed for them before. What was disposed already does not come back.';
COMMENT ON ROUTINE custodian.sweep_consent IS 'What a subject''s consent to a purpose is at a moment: given, withdrawn, or none on record. Answers only inside a sweep or preview of this backend, for what it decides by: 42501 otherwise.';
COMMENT ON ROUTINE custodian.sweep_consents IS 'When a subject gave and withdrew consent to a purpose, in a form for the extension alone. Answers as sweep_consent does.';
COMMENT ON ROUTINE custodian.sweep_erased IS 'Whether a subject was erased by the moment at, and after each of the moments at which a row of it began: a row without one of them is not known to be what was erased. Answers only inside a sweep or preview of this backend, for what it decides by: 42501 otherwise.';
COMMENT ON ROUTINE custodian.sweep_erasures IS 'When a subject was erased, in a form for the extension alone. Answers as sweep_erased does.';
COMMENT ON ROUTINE custodian.sweep_is_pseudonym IS 'Whether a value is a pseudonym that a key of this database made. Answers only inside a sweep or preview of this backend: 42501 otherwise. 55000 while a key is missing.';
COMMENT ON ROUTINE custodian.sweep_now IS 'Disposes of what is due in a table and its partitions, in one partition, or in every tagged table, in the caller''s transaction; returns the rows per table and action. A partition''s rows take those along that refer to each other with them in a circle, wherever these are. It needs neither the worker nor custodian.disposal = on, but a table whose own tag says "disposal" off or observe is left alone. The fuse applies: where it would blow, the error is 55000, unless a run of the table was approved, which is then executed with its own cutoff, unless only a partition is asked for. Makes the transaction''s constraints immediate. Waits for other transactions that called it, or erased subjects in one of the tables. For stewards.';
COMMENT ON ROUTINE custodian.sweep_pseudonym IS 'The keyed pseudonym of a value. Answers only inside a sweep of this backend: 42501 otherwise. 55000 while a key is missing.';
COMMENT ON ROUTINE custodian.tag_column IS 'Tags a column as personal data, held for purposes.';
COMMENT ON ROUTINE custodian.tag_table IS 'Tags a table: what its periods run from, whom its rows are about, and what becomes of a row whose cells are all past. The tag is what the arguments say: one that is left out is not in it.';
COMMENT ON ROUTINE custodian.untag_column IS 'Removes the label of a column: it counts as unreviewed again. With path, only the tag of that path inside its documents. Only a data steward may.';
COMMENT ON ROUTINE custodian.untag_table IS 'Removes the label of a table, but not those of its columns: without the table''s clock they are kept, and reported, unless they have one of their own. Only a data steward may.';
COMMENT ON ROUTINE custodian.verify_ledger IS 'Lists what contradicts the ledger, against a head that was exported before; no row means verified. Without a head the ledger is checked against itself only: that finds every edit, deletion, insertion and reordering, but neither a ledger whose end was cut off nor one that was rewritten as a whole. Entries that no block holds yet are not vouched for; custodian.ledger_head() counts them. That it was verified, and the outcome, is itself an entry, except on a standby and in read-only transactions. For stewards.';
COMMENT ON ROUTINE custodian.waive IS 'Takes a finding off custodian.check() until expires, and returns the waiver''s number. Only a data steward may.';
COMMENT ON ROUTINE custodian.withdraw_consent IS 'Records that a subject withdrew its consent to a purpose: from then on the purpose covers the subject''s cells no more, unless it consents again. The rights to call it are the application''s: the DBA grants EXECUTE.';
COMMENT ON ROUTINE custodian.withdraw_subscriber_disposal IS 'Takes back that the subscribers of a publication dispose by themselves: its partitions are emptied by DELETE again, before they are dropped. Only a data steward may.';
COMMENT ON ROUTINE custodian.would_end IS 'What runs now and would be ended, with why: under the text of a rules file in rules, or under the file as it is now, and with tags, transfers and lanes as the transaction sees them. So a change can be made, looked at and rolled back. That is replication that the guard''s sentinel would end, archiving on lanes that would stop, sessions that would be outside: these go on, but are refused what must stay; and, of this database, subscriptions that would be disabled, and foreign servers that could not be used. It happens while the gate is on; in warn this is what would. Lanes of other databases cannot be read: a walsender on one is shown when the rules would put its peer into another place. pid is null for what is no session; peer is the name of a subscription or server then. For stewards and members of pg_monitor.';
