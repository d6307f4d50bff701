//! The library that starts clusters, tested on itself.

use std::path::Path;

use integration::net::namespaces;
use integration::{Certs, Cluster, Net, Result, Sql, Stop, host, needs_net, wait_until};

#[test]
fn extension_is_created_in_a_preloaded_cluster() -> Result<()> {
    let node = Cluster::builder("preloaded")
        .preload("pg_custodian")
        .start()?;
    node.exec("CREATE EXTENSION pg_custodian")?;
    assert_eq!(node.text("SHOW shared_preload_libraries")?, "pg_custodian");
    assert_eq!(
        node.text("SELECT extname FROM pg_extension WHERE extname = 'pg_custodian'")?,
        "pg_custodian"
    );
    Ok(())
}

#[test]
fn standby_replicates_and_is_promoted() -> Result<()> {
    let node = Cluster::builder("primary")
        .conf("work_mem = '5MB'")
        .start()?;
    let standby = node.standby("standby").start()?;
    node.exec("CREATE TABLE t (a int); INSERT INTO t VALUES (7)")?;
    node.wait_for_catchup(&standby, 60)?;
    assert_eq!(standby.text("SELECT a, pg_is_in_recovery() FROM t")?, "7|t");
    assert_eq!(standby.text("SHOW work_mem")?, "5MB");
    assert_eq!(
        node.text("SELECT application_name, state FROM pg_stat_replication")?,
        "standby|streaming"
    );
    node.stop(Stop::Fast)?;
    standby.promote()?;
    standby.exec("INSERT INTO t VALUES (8)")?;
    assert_eq!(standby.text("SELECT a FROM t ORDER BY a")?, "7\n8");
    Ok(())
}

#[test]
fn server_is_reconfigured_stopped_and_crashed() -> Result<()> {
    let node = Cluster::builder("life")
        .file("more.conf", "temp_buffers = '3MB'")
        .conf("include = 'more.conf'")
        .start()?;
    assert_eq!(node.text("SHOW temp_buffers")?, "3MB");
    node.write_file("more.conf", "temp_buffers = '4MB'")?;
    node.reload()?;
    assert_eq!(node.text("SHOW temp_buffers")?, "4MB");
    node.alter_system("work_mem", "9MB")?;
    assert_eq!(node.text("SHOW work_mem")?, "9MB");
    node.append_conf("maintenance_work_mem = '33MB'")?;
    node.reload()?;
    assert_eq!(node.text("SHOW maintenance_work_mem")?, "33MB");

    node.exec("CREATE TABLE t (a int)")?;
    node.stop(Stop::Fast)?;
    assert!(!node.is_running());
    assert!(node.client().is_err());
    node.start()?;
    assert!(node.start().is_err(), "it runs already");

    node.exec("INSERT INTO t VALUES (1)")?;
    node.crash()?;
    assert!(host::processes_in(&node.data_dir()).is_empty());
    node.start()?;
    node.wait_for_log("database system was not properly shut down", 10);
    assert_eq!(node.text("SELECT count(*) FROM t")?, "1");

    let mut victim = node.client()?;
    let pid = victim.text("SELECT pg_backend_pid()")?;
    node.kill_backend(pid.parse().map_err(|_| "no pid")?)?;
    node.wait_for_log("all server processes terminated; reinitializing", 30);
    wait_until("it accepts connections again", 60, || node.client().is_ok());
    assert!(victim.text("SELECT 1").is_err());
    assert!(node.kill_backend(1).is_err(), "not ours");
    Ok(())
}

#[test]
fn server_that_cannot_start_shows_its_log() {
    let error = Cluster::builder("broken")
        .conf("no_such_setting = 1")
        .start();
    let text = error.err().map(|e| e.to_string()).unwrap_or_default();
    assert!(
        text.contains("unrecognized configuration parameter"),
        "{text}"
    );
}

#[test]
fn programs_are_run_with_their_output_and_exit_code() -> Result<()> {
    let node = Cluster::builder("programs").start()?;
    node.exec("CREATE ROLE reader LOGIN")?;
    let mut other = node.create_database("other")?;
    assert_eq!(other.text("SELECT current_database()")?, "other");
    let output = node.psql_as(
        "reader",
        "other",
        "SELECT current_user, current_database(), NULL",
    )?;
    assert_eq!(output.ok()?, "reader|other|");
    let failed = node.psql("SELECT 1; SELECT 1/0; SELECT 2;")?;
    assert_eq!(failed.code(), Some(3));
    assert_eq!(failed.stdout.trim(), "1");
    assert!(failed.stderr.contains("division by zero"), "{failed}");
    assert!(failed.ok().is_err());

    let mut sleeper = node
        .program("psql")?
        .args(["-c", "SELECT pg_sleep(600)"])
        .start()?;
    wait_until("the query runs", 30, || {
        node.text("SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)' AND state = 'active'")
            .is_ok_and(|n| n == "1")
    });
    assert!(!sleeper.has_ended());
    let ended = sleeper.interrupt()?;
    assert!(
        ended
            .stderr
            .contains("canceling statement due to user request"),
        "{ended}"
    );

    let late = node
        .program("psql")?
        .args(["-c", "SELECT pg_sleep(600)"])
        .timeout(1)
        .run();
    assert!(late.is_err_and(|e| e.to_string().contains("did not end within 1 s")));
    let dump = node.program("pg_dump")?.database("other").run()?;
    assert!(dump.ok()?.contains("PostgreSQL database dump complete"));
    Ok(())
}

#[test]
fn errors_of_the_server_keep_their_fields() -> Result<()> {
    let node = Cluster::builder("errors").start()?;
    let error = node.client()?.refused(
        "DO $$ BEGIN RAISE 'refused' USING ERRCODE = '42501', DETAIL = 'Why.', HINT = 'What to do.'; END $$",
    );
    assert_eq!(error.sqlstate(), "42501");
    assert_eq!(error.db().and_then(|d| d.detail()), Some("Why."));
    let text = error.to_string();
    assert!(
        text.contains("ERROR: refused (SQLSTATE 42501)\nDETAIL: Why.\nHINT: What to do."),
        "{text}"
    );
    Ok(())
}

#[test]
fn namespaces_give_addresses_that_the_server_sees() -> Result<()> {
    needs_net!();
    let net = Net::new(&["cn-a", "cn-b", "eu"])?;
    assert_eq!(
        (net.network("cn").as_str(), net.network("eu").as_str()),
        ("10.86.0.0/16", "10.33.0.0/16")
    );
    let node = Cluster::builder("primary").place(net.at("cn-a")).start()?;

    let program = node.program("psql")?.from(net.at("eu"));
    let seen = program
        .args([
            "-Atc",
            "SELECT host(inet_client_addr()), host(inet_server_addr())",
        ])
        .run()?;
    assert_eq!(seen.ok()?, "10.33.0.1|10.86.0.1");
    let mut client = node.client_from(net.at("cn-b"), "postgres", "postgres")?;
    assert_eq!(client.text("SELECT host(inet_client_addr())")?, "10.86.0.2");
    assert_eq!(
        node.text("SELECT inet_client_addr() IS NULL")?,
        "t",
        "over the socket"
    );

    let standby = node.standby("standby").place(net.at("cn-b")).start()?;
    node.wait_for_catchup(&standby, 60)?;
    assert_eq!(
        node.text("SELECT host(client_addr) FROM pg_stat_replication")?,
        "10.86.0.2"
    );
    let local = node
        .standby("copied")
        .place(net.at("eu"))
        .copy_locally()
        .start()?;
    node.wait_for_catchup(&local, 60)?;
    Ok(())
}

#[test]
fn the_same_addresses_serve_two_nets_at_once() -> Result<()> {
    needs_net!();
    let (one, two) = (Net::new(&["cn-a"])?, Net::new(&["cn-a", "zz"])?);
    let first = Cluster::builder("first").place(one.at("cn-a")).start()?;
    let second = Cluster::builder("second").place(two.at("cn-a")).start()?;
    let name = |node: &Cluster, net: &Net| -> Result<String> {
        node.client_from(net.at("cn-a"), "postgres", "postgres")?
            .text("SHOW cluster_name")
    };
    assert_eq!(
        (name(&first, &one)?, name(&second, &two)?),
        ("first".to_owned(), "second".to_owned())
    );
    assert_eq!(two.network("zz"), "10.102.0.0/16");
    Ok(())
}

#[test]
fn certificates_name_the_client_and_its_authority() -> Result<()> {
    let certs = Certs::new(&["cn", "eu"])?;
    let node = Cluster::builder("tls")
        .loopback()
        .tls(&certs, "cn")?
        .hba("hostssl all all all cert")
        .start()?;
    node.exec("CREATE ROLE app LOGIN")?;
    let sql = "SELECT client_dn, issuer_dn FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    let ask = |cert: &integration::ClientCert, role: &str| {
        let program = node.program("psql")?.over_tcp().role(role).cert(cert);
        program.args(["-Atc", sql]).run()
    };
    for region in ["cn", "eu"] {
        let cert = certs.client(region, "app")?;
        let expected = format!("/O={region}/CN=app|{}", Certs::issuer_dn(region));
        assert_eq!(ask(&cert, "app")?.ok()?, expected);
    }
    let refused = ask(&certs.client("eu", "app")?, "postgres")?;
    assert!(
        refused.stderr.contains("certificate authentication failed"),
        "{refused}"
    );

    let strangers = Certs::new(&["eu"])?;
    let mut unknown = strangers.client("eu", "app")?;
    unknown.authorities = certs.authorities();
    assert!(
        !ask(&unknown, "app")?.success(),
        "an authority of the same name, but not ours"
    );
    Ok(())
}

#[test]
fn nothing_is_left_behind() -> Result<()> {
    let node = Cluster::builder("gone").start()?;
    let standby = node.standby("gone-too").start()?;
    let sleeper = node
        .program("psql")?
        .args(["-c", "SELECT pg_sleep(600)"])
        .start()?;
    let dirs = [node.dir().to_owned(), standby.dir().to_owned()];
    let pid = sleeper.pid();
    assert!(dirs.iter().all(|dir| !host::processes_in(dir).is_empty()));
    drop(sleeper);
    drop(standby);
    drop(node);
    for dir in &dirs {
        assert!(!dir.exists(), "{}", dir.display());
        assert_eq!(host::processes_in(dir), Vec::<i32>::new());
    }
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    Ok(())
}

#[test]
fn nothing_is_left_behind_by_a_panic() {
    let (sender, receiver) = std::sync::mpsc::channel();
    let ended = std::thread::spawn(move || -> Result<()> {
        let node = Cluster::builder("panicked").start()?;
        let _ = sender.send((node.dir().to_owned(), node.pid()?));
        panic!("on purpose");
    })
    .join();
    assert!(ended.is_err());
    let (dir, pid) = receiver.recv().unwrap_or_default();
    assert!(pid > 0, "the cluster started");
    assert!(!dir.exists());
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn no_namespace_is_left_behind() -> Result<()> {
    needs_net!();
    let net = Net::new(&["cn-a", "eu"])?;
    let prefix = net.namespace_prefix().to_owned();
    let ours = || {
        namespaces()
            .iter()
            .filter(|n| n.starts_with(&prefix))
            .count()
    };
    assert_eq!(ours(), 3, "two places and what connects them");
    drop(net);
    assert_eq!(ours(), 0);
    assert!(Net::new(&["cn-a", "cn-a"]).is_err(), "a name twice");
    Ok(())
}

#[test]
fn directories_of_living_processes_are_not_stale() {
    let own = format!("pgcust-{}-x", std::process::id());
    assert!(!host::owner_is_gone(&own, "pgcust-"));
    assert!(
        host::owner_is_gone("pgcust-4194305-x", "pgcust-"),
        "above the largest process id"
    );
    assert!(!host::owner_is_gone("pgcust-x", "pgcust-"));
    assert!(!host::owner_is_gone("other-4194305-x", "pgcust-"));
}

/// Set for the process that is to be killed, which runs the same test.
const DOOMED: &str = "CUSTODIAN_TEST_DOOMED";

#[test]
fn servers_end_when_the_tests_are_killed() -> Result<()> {
    use std::io::{BufRead, BufReader};
    if std::env::var_os(DOOMED).is_some() {
        let node = Cluster::builder("orphan").start()?;
        println!("\nserver {}", node.pid()?);
        std::thread::sleep(std::time::Duration::from_secs(600));
        return Err("nobody killed this process".into());
    }
    let mut tests = std::process::Command::new(std::env::current_exe()?)
        .args([
            "--nocapture",
            "--exact",
            "servers_end_when_the_tests_are_killed",
        ])
        .env(DOOMED, "1")
        .stdout(std::process::Stdio::piped())
        .spawn()?;
    let lines = BufReader::new(tests.stdout.take().ok_or("no output")?).lines();
    let pid = lines
        .map_while(|line| line.ok())
        .find_map(|line| line.strip_prefix("server ")?.parse::<i32>().ok())
        .ok_or("the server did not start")?;
    assert!(Path::new(&format!("/proc/{pid}")).exists());
    tests.kill()?;
    tests.wait()?;
    wait_until("the server has ended", 30, || !host::is_alive(pid));
    Ok(())
}
