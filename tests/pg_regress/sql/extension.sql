-- The extension as a whole: it is created, owns its schema, and is dropped without a trace.
CREATE EXTENSION pg_custodian;
SELECT extname, nspname, extrelocatable
FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
WHERE extname = 'pg_custodian';

-- A schema of that name that somebody else made is not adopted.
DROP EXTENSION pg_custodian;
SELECT count(*) FROM pg_namespace WHERE nspname = 'custodian';
CREATE SCHEMA custodian;
CREATE EXTENSION pg_custodian;
DROP SCHEMA custodian;
CREATE EXTENSION pg_custodian;

-- It may be created a second time after it was dropped, and no other schema can be chosen for it.
DROP EXTENSION pg_custodian;
CREATE SCHEMA elsewhere;
CREATE EXTENSION pg_custodian SCHEMA elsewhere;
SELECT nspname FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'pg_custodian'
WHERE nspname <> 'custodian';

-- Nothing runs with other rights than the caller's without a pinned search_path, and nothing hangs on event triggers.
SELECT p.oid::regprocedure AS unpinned
FROM pg_proc p JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'pg_custodian'
WHERE p.prosecdef AND NOT coalesce(p.proconfig, '{}') @> '{"search_path=pg_catalog, pg_temp"}';
SELECT evtname FROM pg_event_trigger;

-- Nobody but the owner writes its tables, and none of its functions can be replaced by a user.
SELECT c.oid::regclass AS relation, g.privilege_type
FROM pg_class c, aclexplode(c.relacl) g
WHERE c.relnamespace = 'custodian'::regnamespace AND g.grantee = 0 AND g.privilege_type <> 'SELECT'
ORDER BY 1, 2;
SELECT has_schema_privilege('public', 'custodian', 'CREATE') AS anybody_creates;
