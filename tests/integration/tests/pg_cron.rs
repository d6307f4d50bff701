//! pg_cron runs statements of others by itself: in background workers of its own, or over connections to its own server. Work that
//! is lawful goes on with all gates on, and nobody gets by it what they may not have.

use integration::{Cluster, Result, Sql, host, wait_until};

const JOBS: &str = "
CREATE EXTENSION pg_cron; CREATE EXTENSION pg_custodian;
CREATE ROLE app LOGIN; CREATE ROLE dba LOGIN SUPERUSER; GRANT CREATE ON SCHEMA public TO app; GRANT USAGE ON SCHEMA cron TO app;
SET ROLE app;
CREATE TABLE customer (id int PRIMARY KEY, email text);
INSERT INTO customer SELECT i, 'canary-' || i FROM generate_series(1, 3) i;
CREATE TABLE done (job text, mails text);
RESET ROLE;
SELECT custodian.define_purpose('shop.orders', 'contract', '1 year');
SELECT custodian.tag_column('customer', 'email', 'user.contact.email', '{shop.orders}', residency => '{cn}');
SELECT custodian.tag_column('done', 'mails', 'user.contact.email', '{shop.orders}', residency => '{cn}');
SELECT custodian.clear_column('done', 'job'); SELECT custodian.clear_column('customer', 'id');";

/// What a job does as each role: reads a tagged column, and writes it. Somebody inside sets it up.
fn schedule(node: &Cluster) -> Result<()> {
    for role in ["app", "dba"] {
        node.exec(&format!(
            "SELECT cron.schedule_in_database('{role}', '* * * * *',
                 $$INSERT INTO done SELECT '{role}', min(email) FROM customer$$, 'postgres', '{role}')"
        ))?;
    }
    Ok(())
}

fn start(name: &str, background: &str) -> Result<Cluster> {
    let node = Cluster::builder(name)
        .preload("pg_custodian")
        .preload("pg_cron")
        .conf("custodian.region = 'cn'")
        .conf("custodian.enforce = on")
        .conf("custodian.disposal = off")
        .conf(&format!("cron.use_background_workers = {background}"))
        // Nobody but app is known to be here by the socket.
        .file(
            "custodian_regions.conf",
            "region cn\nlocal postgres\nlocal app\n",
        )
        .start()?;
    node.append_conf(&format!("cron.host = '{}'", node.socket_dir().display()))?;
    node.restart()?;
    node.exec(JOBS)?;
    schedule(&node)?;
    Ok(node)
}

fn ended(node: &Cluster, jobs: &str) {
    let runs = format!(
        "SELECT count(DISTINCT username) FROM cron.job_run_details WHERE status IN ('succeeded', 'failed') AND username IN ({jobs})"
    );
    wait_until("each job has ended once", 150, || {
        node.text(&runs).is_ok_and(|count| count == "2")
    });
}

#[test]
fn jobs_of_pg_cron_in_background_workers_are_the_servers_own_and_over_connections_are_somebodys()
-> Result<()> {
    let library = format!("{}/pg_cron.so", host::pg_config("--pkglibdir")?);
    if !std::path::Path::new(&library).exists() {
        integration::not_run("pg_cron is not installed");
        return Ok(());
    }
    let (workers, connections) = (start("workers", "on")?, start("connections", "off")?);
    let outcome = "SELECT DISTINCT username, status FROM cron.job_run_details WHERE status IN ('succeeded', 'failed') ORDER BY 1";
    // A worker of the server has no client who could be elsewhere.
    ended(&workers, "'app', 'dba'");
    assert_eq!(workers.text(outcome)?, "app|succeeded\ndba|succeeded");
    assert_eq!(
        workers.text("SELECT DISTINCT job, mails FROM done ORDER BY 1")?,
        "app|canary-1\ndba|canary-1"
    );
    assert_eq!(
        workers.text("SELECT gate, outcome, role, object, reason FROM custodian.guard_events")?,
        ""
    );
    // Nobody outside has such a worker run something, superuser or not.
    let before = workers.text("SELECT count(*) FROM cron.job")?;
    let mut away = workers.client_as("dba", "postgres")?;
    for (statement, part) in [
        (
            "INSERT INTO cron.job (schedule, command) VALUES ('* * * * *', 'COPY customer TO PROGRAM ''cat''')",
            "writing to \"cron.job\"",
        ),
        (
            "SELECT cron.schedule('more', '* * * * *', 'SELECT 1')",
            "a function of pg_cron",
        ),
        ("SELECT cron.unschedule('app')", "a function of pg_cron"),
        (
            "ALTER EXTENSION pg_cron DROP TABLE cron.job",
            "taking something out of extension \"pg_cron\"",
        ),
    ] {
        let error = away.refused(statement);
        assert_eq!(error.sqlstate(), "42501", "{statement}: {error}");
        assert!(error.to_string().contains(part), "{statement}: {error}");
    }
    assert_eq!(workers.text("SELECT count(*) FROM cron.job")?, before);
    // Over a connection it is judged as any: the role that a line names is here, the other nobody knows, superuser or not.
    ended(&connections, "'app', 'dba'");
    assert_eq!(connections.text(outcome)?, "app|succeeded\ndba|failed");
    assert_eq!(
        connections.text("SELECT DISTINCT job, mails FROM done")?,
        "app|canary-1"
    );
    assert_eq!(
        connections.text(
            "SELECT DISTINCT gate, outcome, role, object FROM custodian.guard_events ORDER BY 1, 2, 3, 4"
        )?,
        "access|refused|dba|public.customer"
    );
    Ok(())
}
