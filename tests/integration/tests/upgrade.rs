//! An upgrade from the previous version: the same objects as in a new installation, with everything in place.

use std::collections::BTreeSet;

use integration::{Cluster, Result, Sql, quote_literal};

const PREVIOUS: &str = "0.1.0";

/// Each object of the extension with all that distinguishes it, one line each.
const OBJECTS: &str = r"
    WITH schema AS (SELECT 'custodian'::regnamespace AS oid)
    SELECT format('function %s(%s) returns %s %s %s %s symbol %s acl %s comment %s', p.proname,
                  pg_get_function_arguments(p.oid), pg_get_function_result(p.oid), p.provolatile, p.prosecdef, p.proisstrict,
                  p.prosrc, (SELECT string_agg(a::text, ',' ORDER BY a::text) FROM unnest(p.proacl) a),
                  obj_description(p.oid, 'pg_proc')) AS line
    FROM pg_proc p, schema s WHERE p.pronamespace = s.oid
    UNION ALL
    SELECT format('relation %s %s rls %s options %s acl %s comment %s', c.relname, c.relkind, c.relrowsecurity, c.reloptions,
                  (SELECT string_agg(a::text, ',' ORDER BY a::text) FROM unnest(c.relacl) a), obj_description(c.oid, 'pg_class'))
    FROM pg_class c, schema s WHERE c.relnamespace = s.oid
    UNION ALL
    SELECT format('column %s %s.%s %s collation %s %s identity %s default %s comment %s', a.attnum, c.relname, a.attname,
                  format_type(a.atttypid, a.atttypmod), (SELECT collname FROM pg_collation l WHERE l.oid = a.attcollation), a.attnotnull, a.attidentity, pg_get_expr(d.adbin, d.adrelid),
                  col_description(c.oid, a.attnum))
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN schema s ON c.relnamespace = s.oid
    LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
    WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'v')
    UNION ALL
    SELECT format('constraint %s.%s %s', o.conrelid::regclass, o.conname, pg_get_constraintdef(o.oid))
    FROM pg_constraint o, schema s WHERE o.connamespace = s.oid
    UNION ALL
    SELECT 'index ' || pg_get_indexdef(i.indexrelid)
    FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN schema s ON c.relnamespace = s.oid
    UNION ALL
    SELECT format('view %s %s', c.relname, pg_get_viewdef(c.oid)) FROM pg_class c, schema s
    WHERE c.relnamespace = s.oid AND c.relkind = 'v'
    UNION ALL
    SELECT format('trigger %s', pg_get_triggerdef(t.oid)) FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
    JOIN schema s ON c.relnamespace = s.oid WHERE NOT t.tgisinternal
    UNION ALL
    SELECT format('type %s %s', t.typname, t.typtype) FROM pg_type t, schema s
    WHERE t.typnamespace = s.oid AND t.typelem = 0 AND t.typrelid = 0
    UNION ALL
    SELECT format('member %s', pg_describe_object(d.classid, d.objid, d.objsubid))
    FROM pg_depend d JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
    WHERE d.deptype = 'e' AND e.extname = 'pg_custodian'
    UNION ALL
    SELECT format('dumped %s %s', r.oid::regclass, r.condition)
    FROM pg_extension e, unnest(e.extconfig, e.extcondition) AS r (oid, condition) WHERE e.extname = 'pg_custodian'
    UNION ALL
    SELECT format('seeded %s', b) FROM custodian.lawful_basis b";

fn objects(node: &Cluster, database: &str) -> Result<BTreeSet<String>> {
    let rows = node.client_as("postgres", database)?.query(OBJECTS, &[])?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

#[test]
fn an_upgraded_database_has_the_objects_of_a_new_one_and_keeps_its_policy() -> Result<()> {
    let node = Cluster::builder("upgrade")
        .preload("pg_custodian")
        .start()?;
    let mut client = node.client()?;
    client.batch_execute("CREATE ROLE counsel")?;
    client.batch_execute("CREATE DATABASE old")?;
    client.batch_execute("CREATE DATABASE new")?;
    node.client_as("postgres", "new")?
        .batch_execute("CREATE EXTENSION pg_custodian")?;
    let mut old = node.client_as("postgres", "old")?;
    old.batch_execute(&format!(
        "CREATE EXTENSION pg_custodian VERSION {}",
        quote_literal(PREVIOUS)
    ))?;
    old.batch_execute(
        "CREATE TABLE customer (id bigint PRIMARY KEY, email text, address text, seen timestamptz NOT NULL);
         INSERT INTO customer
         SELECT n, 'u' || n, 'street ' || n, now() - n * interval '1 day' FROM generate_series(1, 100) n;
         SELECT custodian.define_purpose('shop.account', 'contract', '95 days');
         SELECT custodian.tag_table('customer', clock => 'seen', subject_kind => 'customer', subject_key => '{id}',
                                    on_expiry => 'delete');
         SELECT custodian.tag_column('customer', 'email', 'user.contact.email', '{shop.account}',
                                     on_expiry => 'set_null');
         SELECT custodian.tag_column('customer', 'address', 'user.contact', '{shop.account}', on_expiry => 'hmac');
         SELECT custodian.require_minimum('cn.tax', 'customer', '{address}', '98 days', 'Law A, article 1');
         SELECT custodian.place_hold('2026-1', approver => 'counsel', review_on => '2099-01-01', reason => 'court',
                                     subject_kind => 'customer', subject_key => '{99}');
         SELECT custodian.seal_ledger()",
    )?;
    let head = old.text("SELECT custodian.ledger_head()")?;
    old.batch_execute("ALTER EXTENSION pg_custodian UPDATE")?;
    assert_eq!(
        old.text("SELECT extversion = custodian_version FROM pg_extension,
                  (SELECT library_version AS custodian_version FROM custodian.status) s WHERE extname = 'pg_custodian'")?,
        "t"
    );

    let (old_objects, new_objects) = (objects(&node, "old")?, objects(&node, "new")?);
    let missing: Vec<_> = new_objects.difference(&old_objects).collect();
    let left: Vec<_> = old_objects.difference(&new_objects).collect();
    assert!(
        missing.is_empty() && left.is_empty(),
        "only in a new installation: {missing:#?}\nonly after the upgrade: {left:#?}"
    );

    // What was declared before is recorded by the upgrade; what was in force at older epochs is not known.
    assert_eq!(
        old.text(
            "SELECT custodian.policy_of_epoch(max(epoch)) = custodian.export_policy(),
                    custodian.export_policy() -> 'tables' ? 'public.customer' FROM custodian.epoch"
        )?,
        "t|t"
    );
    assert_eq!(
        old.refused("SELECT custodian.policy_of_epoch(1)")
            .sqlstate(),
        "55000"
    );

    // The connection of before the upgrade and a new one see the same policy at work.
    for client in [&mut old, &mut node.client_as("postgres", "old")?] {
        assert_eq!(
            client.text(
                "SELECT string_agg(concat_ws(' ', column_name, state), ';' ORDER BY n, column_name)
                 FROM (VALUES (94), (96), (98), (99)) AS v (n),
                      custodian.explain_row('customer', jsonb_build_object('id', n))"
            )?,
            "address active;email active;address blocked;email due;address due;email due;address held;email held"
        );
        assert_eq!(
            client
                .refused("DELETE FROM customer WHERE id = 99")
                .sqlstate(),
            "23001"
        );
        assert_eq!(
            client.text(&format!(
                "SELECT * FROM custodian.verify_ledger({})",
                quote_literal(&head)
            ))?,
            ""
        );
    }
    Ok(())
}
