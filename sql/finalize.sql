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
GRANT EXECUTE ON FUNCTION custodian.read_region_rules() TO PUBLIC;
GRANT SELECT ON custodian.region_rules TO PUBLIC;

-- Plan. What they show, they check for themselves; those on pseudonyms answer only inside a sweep or preview,
-- which runs with the rights of a table's owner.
GRANT EXECUTE ON FUNCTION custodian.estimate_preview(regclass, timestamptz) TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.explain_row(regclass, jsonb, timestamptz) TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.preview(regclass, timestamptz) TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.sweep_is_pseudonym(text) TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.sweep_pseudonym(text) TO PUBLIC;

-- Status: one row for everybody; the checks are for stewards and pg_monitor, and ask for that themselves.
GRANT EXECUTE ON FUNCTION custodian.check() TO PUBLIC;
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
GRANT EXECUTE ON FUNCTION custodian.tag_column(regclass, text, text, text[], text, text[], text, text, text[]) TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.tag_table(regclass, text, text, text[], text[], text, text, text, text, text) TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.untag_column(regclass, text, text[]) TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.untag_table(regclass) TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.declare_defence(text, regclass, text[], interval, text, text) TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.suspend_defence(text, timestamptz) TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.resume_defence(text, timestamptz) TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.require_maximum(text, regclass, text[], interval, text, text) TO PUBLIC;
GRANT SELECT ON custodian.maximums, custodian.suspensions TO PUBLIC;
GRANT SELECT ON custodian.minimums, custodian.publication_permits, custodian.purposes, custodian.tags TO PUBLIC;

-- Consents. To record and withdraw them is for applications: the DBA grants that. The view asks for a steward itself;
-- the functions that sweeps ask by answer only inside a sweep or preview.
GRANT EXECUTE ON FUNCTION custodian.sweep_consent(text, text, text[], timestamptz) TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.sweep_consents(text, text, text[]) TO PUBLIC;
GRANT SELECT ON custodian.consents TO PUBLIC;

-- The policy as one document: what it shows, the views show; what it writes, it checks as the single functions do.
GRANT EXECUTE ON FUNCTION custodian.apply_policy(jsonb, boolean) TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.export_policy() TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.policy_as_of(timestamptz) TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.policy_of_epoch(bigint) TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.record_policy() TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.simulate(jsonb) TO PUBLIC;

-- The worker. The functions check for a steward themselves; the views hold no values.
GRANT EXECUTE ON FUNCTION custodian.approve_run(bigint, text) TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.sweep_now(regclass) TO PUBLIC;
GRANT SELECT ON custodian.run_items, custodian.runs TO PUBLIC;

-- Legal holds: for stewards, which the functions and the view check for themselves.
GRANT EXECUTE ON FUNCTION custodian.install_row_guard() TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.place_hold(text, text, date, text, regclass, text, text[], jsonb) TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.release_hold(bigint, text, text) TO PUBLIC;
GRANT SELECT ON custodian.holds TO PUBLIC;

-- Lawful bases: for everyone to see; the function checks for a steward itself.
GRANT EXECUTE ON FUNCTION custodian.define_lawful_basis(text, text, text, boolean, text, date, date) TO PUBLIC;
GRANT SELECT ON custodian.lawful_bases TO PUBLIC;

-- Reports. Waivers and findings are for stewards, which is asked where they are read; the schedule holds no values.
GRANT EXECUTE ON FUNCTION custodian.check_all() TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.overdue_now(regclass) TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.review_coverage(regclass, integer) TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.revoke_waiver(bigint, text) TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.scheduled_columns() TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.suggest_tags(regclass, integer) TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.waive(text, text, text, text, timestamptz) TO PUBLIC;
GRANT SELECT ON custodian.coverage, custodian.overdue, custodian.retention_schedule, custodian.waivers TO PUBLIC;

-- Transfers and lanes: for stewards, which the functions and the views check for themselves.
GRANT EXECUTE ON FUNCTION custodian.approve_transfer(text, text) TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.close_lane(bigint, text, text) TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.open_lane(text, text, text, text[], inet, text, text, text) TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.publication_filter(regclass, text) TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.register_transfer(text, text, text, text, text, text[], text[], text, text, text, text, text, text, timestamptz, text, text[]) TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.revoke_transfer(text, text, text) TO PUBLIC;
GRANT SELECT ON custodian.lanes, custodian.transfers TO PUBLIC;
