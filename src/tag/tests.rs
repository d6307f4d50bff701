//! Tags and policy, tested inside a server that has the library preloaded. Each test's transaction is rolled
//! back.

use pgrx::prelude::*;

#[pg_schema]
mod tests {
    use pgrx::prelude::*;

    use crate::error::{Error, Kind};
    use crate::pg::inherit;
    use crate::pg::subxact::subtransaction;
    use crate::policy::epoch;
    use crate::tag::read;

    fn oid(name: &str) -> pg_sys::Oid {
        Spi::get_one_with_args::<pg_sys::Oid>("SELECT $1::regclass::oid", &[name.into()])
            .expect("a query that works")
            .expect("the table exists")
    }

    fn sqlstate(sql: &str) -> String {
        match subtransaction(|| Ok(Spi::run(sql)?)) {
            Ok(()) => "00000".to_owned(),
            Err(caught) => caught.sqlstate,
        }
    }

    const SETUP: &str = "
        CREATE TABLE t (id int PRIMARY KEY, email text, at timestamptz);
        SELECT custodian.define_purpose('a.b', 'contract', '1 year');
        SELECT custodian.define_purpose('a.c', 'consent', '1 year');";

    #[pg_test]
    fn errors_carry_their_sqlstates() -> Result<(), Error> {
        Spi::run(SETUP)?;
        for (sql, state) in [
            (
                "SELECT custodian.tag_column('t', 'email', 'user.email', '{a.b}')",
                "00000",
            ),
            (
                "SELECT custodian.tag_column('t', 'none', 'user.email', '{a.b}')",
                "42704",
            ),
            (
                "SELECT custodian.tag_column('t', 'email', 'user.email', '{a.x}')",
                "42704",
            ),
            (
                "SELECT custodian.tag_column('t', 'email', 'User', '{a.b}')",
                "22023",
            ),
            (
                "SELECT custodian.tag_column('t', 'email', 'user', '{a.b}', on_expiry => 'network')",
                "22023",
            ),
            (
                "SELECT custodian.tag_column('t', 'email', 'user', '{a.b}', clock => 'email')",
                "22023",
            ),
            (
                "SELECT custodian.tag_column('t_pkey', 'id', 'user', '{a.b}')",
                "42809",
            ),
            (
                "SECURITY LABEL FOR custodian ON COLUMN t.email IS '{}'",
                "22023",
            ),
            (
                "SECURITY LABEL FOR custodian ON ROLE pg_monitor IS '{}'",
                "42809",
            ),
            (
                "SELECT custodian.define_purpose('a.b', 'consent', '1 year')",
                "42710",
            ),
            ("SELECT custodian.end_purpose('a.x')", "42704"),
            (
                "SELECT custodian.require_minimum('x.y', 't', '{id}', '1 year', 'Law')",
                "55000",
            ),
            ("SELECT custodian.forbid_publication('x')", "42704"),
        ] {
            assert_eq!(sqlstate(sql), state, "{sql}");
        }
        Spi::run("CREATE ROLE tag_nobody; SET LOCAL ROLE tag_nobody")?;
        for sql in [
            "SELECT custodian.tag_column('t', 'email', 'user.email', '{a.b}')",
            "SELECT custodian.define_purpose('a.d', 'contract', '1 year')",
            "SELECT custodian.permit_publication('p', '{cn}', 'because')",
        ] {
            assert_eq!(sqlstate(sql), "42501", "{sql}");
        }
        Ok(())
    }

    #[pg_test]
    fn each_change_is_an_epoch_and_a_refused_one_is_none() -> Result<(), Error> {
        Spi::run(SETUP)?;
        let before = epoch::current()?;
        let tag = "SELECT custodian.tag_column('t', 'email', 'user.email', '{a.b,a.c}')";
        Spi::run(tag)?;
        assert_eq!(epoch::current()?, before + 1);
        Spi::run(tag)?;
        assert_eq!(epoch::current()?, before + 1, "nothing changed");
        assert_ne!(
            sqlstate(
                "SELECT custodian.tag_column('t', 'email', 'user.email', '{a.b}', clock => 'none')"
            ),
            "00000"
        );
        let tags = read::column_tags(oid("t"))?;
        assert_eq!(
            tags.get("email").map(|tag| tag.purposes.clone()),
            Some(vec!["a.b".to_owned(), "a.c".to_owned()]),
            "what was refused changed nothing"
        );
        Ok(())
    }

    #[pg_test]
    fn a_parents_tags_govern_its_children() -> Result<(), Error> {
        Spi::run(SETUP)?;
        Spi::run(
            "CREATE TABLE p (email text, at timestamptz) PARTITION BY RANGE (at);
             CREATE TABLE p1 PARTITION OF p FOR VALUES FROM ('2020-01-01') TO ('2021-01-01') PARTITION BY RANGE (at);
             CREATE TABLE p11 PARTITION OF p1 FOR VALUES FROM ('2020-01-01') TO ('2020-06-01');
             SELECT custodian.tag_table('p', clock => 'at', on_expiry => 'delete');
             SELECT custodian.tag_column('p', 'email', 'user.email', '{a.b,a.c}', residency => '{cn,de}');
             SECURITY LABEL FOR custodian ON COLUMN p1.email IS
                 '{\"category\":\"user.email\",\"sensitivity\":\"sensitive\",\"purposes\":[\"a.c\",\"a.d\"]}';",
        )?;
        let (root, leaf) = (oid("p"), oid("p11"));
        assert_eq!(inherit::root(leaf), root);
        assert_eq!(inherit::ancestors(leaf), [oid("p1"), root]);
        assert_eq!(inherit::descendants(root), [oid("p1"), leaf]);
        let tags = read::column_tags(leaf)?;
        let tag = tags.get("email").ok_or_else(|| Error::internal("no tag"))?;
        assert_eq!(tag.purposes, ["a.c"]);
        assert_eq!(tag.residency, None);
        assert_eq!(read::table_tag(leaf)?, read::table_tag(root)?);
        // A malformed label above leaves the column without a tag, and is an error for those who ask.
        Spi::run("UPDATE pg_seclabel SET label = 'x' WHERE objoid = 'p1'::regclass")?;
        assert!(!read::labels(leaf).columns.contains_key("email"));
        assert_eq!(
            read::column_tags(leaf).map_err(|error| error.kind).err(),
            Some(Kind::InvalidTag)
        );
        Ok(())
    }
}
