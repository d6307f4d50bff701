-- The columns of relations, with what of types and constraints matters to methods. $1 and $2 are pairs of a
-- relation and one of its family (itself, its ancestors and descendants): a constraint of any of them counts.
WITH RECURSIVE pair AS (
    SELECT DISTINCT p.relation, p.member
    FROM unnest($1::oid[], $2::oid[]) AS p (relation, member)
), attribute AS (
    SELECT p.relation, p.member, a.attnum, a.attname, a.atttypid, a.atttypmod, a.attnotnull,
           a.attgenerated, a.attidentity
    FROM pair p
    JOIN pg_attribute a ON a.attrelid = p.member AND a.attnum > 0 AND NOT a.attisdropped
), domain AS (
    SELECT t.oid AS top, t.oid, t.typtype, t.typbasetype, t.typnotnull, t.typtypmod
    FROM pg_type t
    WHERE t.oid IN (SELECT atttypid FROM attribute)
    UNION ALL
    SELECT d.top, t.oid, t.typtype, t.typbasetype, t.typnotnull, t.typtypmod
    FROM domain d JOIN pg_type t ON d.typtype = 'd' AND t.oid = d.typbasetype
), type AS (
    SELECT d.top,
           max(d.oid::bigint) FILTER (WHERE d.typtype <> 'd')::oid AS base,
           bool_or(d.typnotnull) AS not_null,
           max(d.typtypmod) AS typmod,
           bool_or(EXISTS (SELECT FROM pg_constraint c WHERE c.contypid = d.oid AND c.contype = 'c')) AS checked
    FROM domain d GROUP BY d.top
), uniqueness AS (
    SELECT i.indrelid AS member, k.attnum, i.indnullsnotdistinct AS nulls_equal
    FROM pg_index i, unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, position)
    WHERE (i.indisunique OR i.indisexclusion) AND k.position <= i.indnkeyatts
      AND i.indrelid IN (SELECT member FROM pair)
    UNION ALL
    -- Columns that expressions and predicates of such an index read.
    SELECT i.indrelid, d.refobjsubid, false
    FROM pg_index i
    JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid
                    AND d.refclassid = 'pg_class'::regclass AND d.refobjid = i.indrelid AND d.refobjsubid > 0
    WHERE (i.indisunique OR i.indisexclusion) AND i.indrelid IN (SELECT member FROM pair)
), unique_column AS (
    SELECT member, attnum, bool_or(nulls_equal) AS nulls_equal FROM uniqueness GROUP BY member, attnum
), foreign_key AS (
    SELECT c.conrelid AS member, k.attnum, c.confmatchtype = 'f' AND cardinality(c.conkey) > 1 AS bound
    FROM pg_constraint c, unnest(c.conkey) AS k (attnum)
    WHERE c.contype = 'f' AND c.conrelid IN (SELECT member FROM pair)
    UNION ALL
    SELECT c.confrelid, k.attnum, true
    FROM pg_constraint c, unnest(c.confkey) AS k (attnum)
    WHERE c.contype = 'f' AND c.confrelid IN (SELECT member FROM pair)
), foreign_column AS (
    SELECT member, attnum, bool_or(bound) AS bound FROM foreign_key GROUP BY member, attnum
), checked_column AS (
    SELECT DISTINCT c.conrelid AS member, k.attnum
    FROM pg_constraint c, unnest(c.conkey) AS k (attnum)
    WHERE c.contype = 'c' AND c.conrelid IN (SELECT member FROM pair)
), partition_column AS (
    SELECT p.partrelid AS member, k.attnum
    FROM pg_partitioned_table p, unnest(p.partattrs::int2[]) AS k (attnum)
    WHERE p.partrelid IN (SELECT member FROM pair)
    UNION
    -- Columns that an expression of a partition key reads.
    SELECT d.objid, d.refobjsubid
    FROM pg_partitioned_table p
    JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = p.partrelid AND d.objsubid = 0
                    AND d.refclassid = 'pg_class'::regclass AND d.refobjid = p.partrelid AND d.refobjsubid > 0
    WHERE p.partrelid IN (SELECT member FROM pair)
), indexed_column AS (
    SELECT DISTINCT i.indrelid AS member, i.indkey[0] AS attnum
    FROM pg_index i
    JOIN pg_class c ON c.oid = i.indexrelid
    JOIN pg_am m ON m.oid = c.relam AND m.amname = 'btree'
    WHERE i.indisvalid AND i.indpred IS NULL AND i.indrelid IN (SELECT member FROM pair)
)
SELECT a.relation,
       a.attname,
       quote_ident(a.attname),
       max(a.attnum) FILTER (WHERE a.member = a.relation),
       max(format_type(a.atttypid, a.atttypmod)) FILTER (WHERE a.member = a.relation),
       max(b.typname) FILTER (WHERE a.member = a.relation),
       max(b.typcategory) FILTER (WHERE a.member = a.relation),
       max(CASE WHEN t.typmod >= 0 THEN t.typmod ELSE a.atttypmod END) FILTER (WHERE a.member = a.relation),
       bool_or(a.attnotnull OR t.not_null),
       bool_or(a.attgenerated <> ''),
       bool_or(a.attidentity <> ''),
       bool_or(u.attnum IS NOT NULL),
       bool_or(coalesce(u.nulls_equal, false)),
       bool_or(f.attnum IS NOT NULL AND NOT f.bound),
       bool_or(coalesce(f.bound, false)),
       bool_or(c.attnum IS NOT NULL OR t.checked),
       bool_or(p.attnum IS NOT NULL),
       bool_or(i.attnum IS NOT NULL)
FROM attribute a
JOIN type t ON t.top = a.atttypid
JOIN pg_type b ON b.oid = t.base
LEFT JOIN unique_column u ON u.member = a.member AND u.attnum = a.attnum
LEFT JOIN foreign_column f ON f.member = a.member AND f.attnum = a.attnum
LEFT JOIN checked_column c ON c.member = a.member AND c.attnum = a.attnum
LEFT JOIN partition_column p ON p.member = a.member AND p.attnum = a.attnum
LEFT JOIN indexed_column i ON i.member = a.member AND i.attnum = a.attnum
GROUP BY a.relation, a.attname
HAVING bool_or(a.member = a.relation)
ORDER BY a.relation, max(a.attnum) FILTER (WHERE a.member = a.relation)
