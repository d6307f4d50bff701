//! `sweep_now()` in a server.

use pgrx::prelude::*;

#[pg_schema]
mod tests {
    use pgrx::prelude::*;
    use pgrx::spi::Error;

    /// Rows 1 to 100, last seen that many days ago, of a role that cannot log in.
    fn customers() -> Result<(), Error> {
        Spi::run(
            "CREATE ROLE app NOLOGIN;
             CREATE TABLE public.customer (id bigint PRIMARY KEY, email text, name text, seen timestamptz NOT NULL);
             ALTER TABLE public.customer OWNER TO app;
             INSERT INTO public.customer
                 SELECT n, 'u' || n || '@example.com', 'n' || n, now() - n * interval '1 day' FROM generate_series(1, 100) n;
             SELECT custodian.define_purpose('test.account', 'contract', '98 days');
             SELECT custodian.tag_table('public.customer', clock => 'seen', on_expiry => 'delete');
             SELECT custodian.tag_column('public.customer', 'email', 'user.contact.email', '{test.account}')",
        )
    }

    fn text(sql: &str) -> Result<Option<String>, Error> {
        Spi::get_one::<String>(&format!(
            "SELECT coalesce(string_agg(r::text, ' ' ORDER BY r::text), '') FROM ({sql}) r"
        ))
    }

    /// Runs a statement, and gives SQLSTATE and message of its error.
    fn error(sql: &str) -> Result<Option<String>, Error> {
        Spi::run(
            "CREATE OR REPLACE FUNCTION pg_temp.error_of(sql text) RETURNS text LANGUAGE plpgsql AS
             'BEGIN EXECUTE sql; RETURN NULL; EXCEPTION WHEN OTHERS THEN RETURN SQLSTATE || '' '' || SQLERRM; END'",
        )?;
        Spi::get_one_with_args::<String>("SELECT pg_temp.error_of($1)", &[sql.into()])
    }

    #[pg_test]
    fn sweep_now_disposes_of_what_is_due_and_no_more() -> Result<(), Error> {
        customers()?;
        assert_eq!(
            text("SELECT relation, action, rows FROM custodian.sweep_now('public.customer')")?
                .as_deref(),
            Some("(customer,\"delete row\",3)")
        );
        assert_eq!(
            text("SELECT count(*), max(id) FROM public.customer")?.as_deref(),
            Some("(97,97)")
        );
        assert_eq!(
            text("SELECT state, rows_planned, rows_done, reason FROM custodian.runs")?.as_deref(),
            Some("(done,3,3,sweep_now)")
        );
        assert_eq!(
            text("SELECT * FROM custodian.sweep_now()")?.as_deref(),
            Some("")
        );
        assert_eq!(
            text("SELECT custodian.ledger_body(body) ->> 'kind' FROM custodian.ledger_entry WHERE body LIKE '%\"run.%'")?
                .as_deref(),
            Some("(run.done) (run.planned)")
        );
        Ok(())
    }

    #[pg_test]
    fn sweep_now_is_stopped_by_the_fuse() -> Result<(), Error> {
        customers()?;
        Spi::run("SET LOCAL custodian.clock_offset = '50d'")?;
        let refused = error("SELECT * FROM custodian.sweep_now('public.customer')")?;
        assert_eq!(
            refused.as_deref(),
            Some("55000 disposal of public.customer needs an approval")
        );
        assert_eq!(
            text("SELECT count(*) FROM public.customer")?.as_deref(),
            Some("(100)")
        );
        Ok(())
    }

    #[pg_test]
    fn sweep_now_is_for_stewards() -> Result<(), Error> {
        customers()?;
        Spi::run("SET LOCAL ROLE app")?;
        let refused = error("SELECT * FROM custodian.sweep_now('public.customer')")?;
        Spi::run("RESET ROLE")?;
        assert_eq!(
            refused.as_deref(),
            Some("42501 must be a data steward to dispose of rows")
        );
        Ok(())
    }

    #[pg_test]
    fn sweep_now_keeps_off_tables_whose_tag_says_so() -> Result<(), Error> {
        customers()?;
        Spi::run(
            "SELECT custodian.tag_table('public.customer', clock => 'seen', on_expiry => 'delete', disposal => 'observe')",
        )?;
        assert_eq!(
            error("SELECT * FROM custodian.sweep_now('public.customer')")?.as_deref(),
            Some("55000 disposal is switched off for public.customer")
        );
        assert_eq!(
            text("SELECT * FROM custodian.sweep_now()")?.as_deref(),
            Some("")
        );
        assert_eq!(
            error("SELECT * FROM custodian.sweep_now('pg_catalog.pg_class')")?.as_deref(),
            Some("42704 pg_catalog.pg_class is not tagged")
        );
        Ok(())
    }

    #[pg_test]
    fn sweep_now_finds_nothing_to_do_in_a_partitioned_table_without_partitions() -> Result<(), Error>
    {
        customers()?;
        Spi::run(
            "CREATE TABLE public.visit (id int, at timestamptz, page text) PARTITION BY RANGE (at);
             SELECT custodian.tag_table('public.visit', clock => 'at');
             SELECT custodian.tag_column('public.visit', 'page', 'user.behavior', '{test.account}', on_expiry => 'set_null')",
        )?;
        assert_eq!(
            text("SELECT * FROM custodian.sweep_now('public.visit')")?.as_deref(),
            Some("")
        );
        Ok(())
    }

    #[pg_test]
    fn sweep_now_reports_an_obstacle_without_its_values() -> Result<(), Error> {
        customers()?;
        Spi::run("CREATE TABLE public.note (customer bigint REFERENCES public.customer)")?;
        assert_eq!(
            error("SELECT * FROM custodian.sweep_now('public.customer')")?.as_deref(),
            Some("42501 what is due in public.customer could not be counted"),
            "the owner may not read the table that refers to its own"
        );
        Spi::run(
            "GRANT SELECT ON public.note TO app;
             CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS
                 'BEGIN RAISE EXCEPTION ''no, not %'', OLD.email; END';
             CREATE TRIGGER refuse BEFORE DELETE ON public.customer FOR EACH ROW EXECUTE FUNCTION public.refuse()",
        )?;
        assert_eq!(
            error("SELECT * FROM custodian.sweep_now('public.customer')")?.as_deref(),
            Some("XX000 rows of public.customer could not be disposed")
        );
        Spi::run(
            "DROP TRIGGER refuse ON public.customer;
             CREATE RULE nothing AS ON DELETE TO public.customer DO INSTEAD NOTHING",
        )?;
        assert_eq!(
            error("SELECT * FROM custodian.sweep_now('public.customer')")?.as_deref(),
            Some("55000 3 rows of public.customer are still there")
        );
        assert_eq!(
            text("SELECT count(*) FROM public.customer")?.as_deref(),
            Some("(100)")
        );
        Ok(())
    }

    #[pg_test]
    fn sweep_now_rewrites_cells_and_leaves_shells() -> Result<(), Error> {
        customers()?;
        Spi::run(
            "SELECT custodian.tag_table('public.customer', clock => 'seen', on_expiry => 'keep');
             SELECT custodian.tag_column('public.customer', 'email', 'user.contact.email', '{test.account}', on_expiry => 'set_null');
             SELECT custodian.tag_column('public.customer', 'name', 'user.name', '{test.account}', on_expiry => '{\"mask\":1}')",
        )?;
        assert_eq!(
            text("SELECT relation, action, rows FROM custodian.sweep_now('public.customer')")?
                .as_deref(),
            Some("(customer,\"set null, mask\",3)")
        );
        assert_eq!(
            text("SELECT id, email, name FROM public.customer WHERE id > 96")?.as_deref(),
            Some("(100,,***0) (97,u97@example.com,n97) (98,,**8) (99,,**9)")
        );
        assert_eq!(
            text("SELECT * FROM custodian.sweep_now('public.customer')")?.as_deref(),
            Some("")
        );
        Ok(())
    }
}
