-- The policy together with what no document declares: for whoever asks what was in force.

CREATE FUNCTION custodian.full_policy_as_of(at timestamptz) RETURNS jsonb
LANGUAGE sql STABLE
BEGIN ATOMIC
SELECT custodian.policy_as_of(full_policy_as_of.at) || pg_catalog.jsonb_build_object(
    'holds', (
        SELECT coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_strip_nulls(pg_catalog.jsonb_build_object(
                   'hold', h.hold, 'matter', h.matter, 'scope', h.scope, 'relation', coalesce(f.relation, h.relation),
                   'subject_kind', h.subject_kind, 'subject_key', h.subject_key, 'match', coalesce(f.match, h.match),
                   'reason', h.reason, 'approver', h.approver, 'review_on', h.review_on, 'placed_at', h.placed_at,
                   'placed_by', h.placed_by)) ORDER BY h.hold), '[]')
        FROM custodian.holds h
        LEFT JOIN LATERAL (SELECT n.relation, n.match FROM custodian.former_hold_names n
                           WHERE n.hold = h.hold AND n.until > full_policy_as_of.at ORDER BY n.until LIMIT 1) f ON true
        WHERE h.placed_at <= full_policy_as_of.at AND (h.released_at IS NULL OR h.released_at > full_policy_as_of.at)),
    'waivers', (
        SELECT coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
                   'waiver', w.waiver, 'code', w.code, 'object', w.object, 'reason', w.reason, 'owner', w.owner,
                   'expires_at', w.expires_at, 'waived_at', w.waived_at, 'waived_by', w.waived_by) ORDER BY w.waiver), '[]')
        FROM custodian.waivers w
        WHERE w.waived_at <= full_policy_as_of.at AND w.expires_at > full_policy_as_of.at
          AND (w.revoked_at IS NULL OR w.revoked_at > full_policy_as_of.at)),
    'lawful_bases', (
        SELECT coalesce(pg_catalog.jsonb_object_agg(j.jurisdiction, j.bases), '{}')
        FROM (SELECT v.jurisdiction, pg_catalog.jsonb_object_agg(v.basis, pg_catalog.jsonb_strip_nulls(pg_catalog.jsonb_build_object(
                         'citation', v.citation, 'meaning', v.meaning, 'consent_based', v.consent_based,
                         'valid_from', v.valid_from, 'valid_to', v.valid_to, 'recorded_at', v.recorded_at))) AS bases
              FROM (SELECT DISTINCT ON (b.jurisdiction, b.basis) b.*, d.day
                    FROM custodian.lawful_basis_versions b, (SELECT (full_policy_as_of.at AT TIME ZONE 'UTC')::date AS day) d
                    WHERE b.valid_from <= d.day AND (b.seeded OR b.recorded_at <= full_policy_as_of.at)
                    ORDER BY b.jurisdiction, b.basis, b.valid_from DESC, b.seeded) v
              WHERE v.valid_to IS NULL OR v.valid_to > v.day
              GROUP BY v.jurisdiction) j),
    'transfers', (
        SELECT coalesce(pg_catalog.jsonb_object_agg(t.transfer, pg_catalog.jsonb_strip_nulls(pg_catalog.jsonb_build_object(
                   'state', CASE WHEN t.revoked_at <= full_policy_as_of.at THEN 'revoked'
                                 WHEN t.valid_until <= full_policy_as_of.at THEN 'expired'
                                 WHEN t.approved_at <= full_policy_as_of.at THEN 'approved'
                                 ELSE 'registered' END,
                   'receiver', t.receiver, 'contact', t.contact, 'organisation', t.organisation, 'region', t.region,
                   'purposes', t.purposes, 'categories', t.categories, 'method', t.method, 'safeguards', t.safeguards,
                   'risks', t.risks, 'rights_channel', t.rights_channel, 'basis', t.basis, 'notice', t.notice,
                   'valid_until', t.valid_until, 'consent_column', t.consent_column, 'residencies', t.residencies,
                   'registered_at', t.registered_at, 'registered_by', t.registered_by,
                   'approved_at', CASE WHEN t.approved_at <= full_policy_as_of.at THEN t.approved_at END,
                   'approved_by', CASE WHEN t.approved_at <= full_policy_as_of.at THEN t.approved_by END))), '{}')
        FROM custodian.transfers t
        WHERE t.registered_at <= full_policy_as_of.at),
    'lanes', (
        SELECT coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_strip_nulls(pg_catalog.jsonb_build_object(
                   'lane', l.lane, 'transfer', l.transfer,
                   'state', CASE WHEN l.database <> pg_catalog.current_database() THEN 'foreign'
                                 WHEN t.approved_at <= full_policy_as_of.at AND t.valid_until > full_policy_as_of.at
                                      AND (t.revoked_at IS NULL OR t.revoked_at > full_policy_as_of.at) THEN 'open'
                                 ELSE 'suspended' END,
                   'role', l.role, 'network', l.network, 'issuer', l.issuer,
                   'database', l.database, 'slot', l.slot, 'plugin', l.plugin, 'publications', l.publications,
                   'opened_at', l.opened_at, 'opened_by', l.opened_by)) ORDER BY l.lane), '[]')
        FROM custodian.lanes l LEFT JOIN custodian.transfers t ON t.transfer = l.transfer
        WHERE l.opened_at <= full_policy_as_of.at AND (l.closed_at IS NULL OR l.closed_at > full_policy_as_of.at)),
    'archive_lanes', (
        SELECT coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
                   'lane', a.lane, 'transfer', a.transfer,
                   'state', CASE WHEN a.database <> pg_catalog.current_database() THEN 'foreign'
                                 WHEN t.approved_at <= full_policy_as_of.at AND t.valid_until > full_policy_as_of.at
                                      AND (t.revoked_at IS NULL OR t.revoked_at > full_policy_as_of.at) THEN 'open'
                                 ELSE 'suspended' END,
                   'command', a.command, 'region', a.region,
                   'organisation', a.organisation, 'database', a.database, 'opened_at', a.opened_at, 'opened_by', a.opened_by)
                   ORDER BY a.lane), '[]')
        FROM custodian.archive_lanes a LEFT JOIN custodian.transfers t ON t.transfer = a.transfer
        WHERE a.opened_at <= full_policy_as_of.at AND (a.closed_at IS NULL OR a.closed_at > full_policy_as_of.at)));
END;
COMMENT ON FUNCTION custodian.full_policy_as_of(timestamptz) IS 'the document of policy_as_of() with the legal holds, waivers, lawful bases, transfers and lanes of that moment, which apply_policy() does not take. It shows subject keys: for stewards';
