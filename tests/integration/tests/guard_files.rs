//! The rules file in several files, and its check without a server.

use std::fs;

use integration::{Cluster, Net, Program, Result, Stop, host, needs_net, wait_until};

const MAIN: &str =
    "region cn\ninclude_dir regions.d\ninclude_if_exists local.conf\nlocal postgres\n";

fn write(dir: &std::path::Path) -> Result<()> {
    let parts = dir.join("regions.d");
    fs::create_dir(&parts)?;
    fs::write(
        parts.join("10-eu.conf"),
        "# europe\nregion eu\nnetwork 10.33.0.0/16 eu acme\n",
    )?;
    fs::write(parts.join("20-cn.conf"), "network 10.86.0.0/16 cn\n")?;
    fs::write(parts.join("ignored"), "this is no rule\n")?;
    for path in [
        parts.clone(),
        parts.join("10-eu.conf"),
        parts.join("20-cn.conf"),
        parts.join("ignored"),
    ] {
        host::give(&path)?;
    }
    Ok(())
}

#[test]
fn included_files_are_read_shown_and_kept_with_the_last_good_rules() -> Result<()> {
    let node = Cluster::builder("files")
        .preload("pg_custodian")
        .conf("custodian.region = 'cn'")
        .start()?;
    node.exec("CREATE EXTENSION pg_custodian")?;
    write(&node.data_dir())?;
    node.write_file("custodian_regions.conf", MAIN)?;
    node.reload()?;
    let peer = "SELECT verdict, line, reason FROM custodian.check_peer('10.33.0.7')";
    let eu = node.data_dir().join("regions.d/10-eu.conf");
    let expected = format!(
        "outside|3|Line 3 of \"{}\" of the region rules (network) puts the peer in region \"eu\", but this node is in \"cn\".",
        eu.display()
    );
    wait_until("the rules are in force", 60, || {
        node.text(peer).is_ok_and(|answer| answer == expected)
    });
    assert_eq!(
        node.text(
            "SELECT type, line_number, regexp_replace(file_name, '.*/', ''), loaded FROM custodian.region_rules"
        )?,
        "region|1||t\ninclude_dir|2||t\nregion|2|10-eu.conf|t\nnetwork|3|10-eu.conf|t\nnetwork|1|20-cn.conf|t\ninclude_if_exists|3||t\nlocal|4||t"
    );

    // A wrong line in one of them: what was read before stays, also after a restart and without the file.
    fs::write(&eu, "region eu\nnetwork 10.33.0.0/16 nowhere\n")?;
    node.reload()?;
    let state = "SELECT region_rules_state FROM custodian.status";
    wait_until("the error was seen", 60, || {
        node.text(state)
            .is_ok_and(|state| state == "errors, last good rules kept")
    });
    assert_eq!(node.text(peer)?, expected);
    assert_eq!(
        node.text("SELECT line_number, error FROM custodian.region_rules WHERE error IS NOT NULL")?,
        "2|there is no region \"nowhere\": add a line \"region nowhere\""
    );
    fs::remove_dir_all(node.data_dir().join("regions.d"))?;
    node.stop(Stop::Fast)?;
    node.start()?;
    assert_eq!(node.text(peer)?, expected);
    assert!(
        node.text("SELECT error FROM custodian.region_rules WHERE error IS NOT NULL")?
            .contains("regions.d\" cannot be read")
    );
    // A text that is only checked reads no files of the server.
    assert!(
        node.text("SELECT line_number, error FROM custodian.check_rules(E'region cn\\ninclude /etc/passwd')")?
            .starts_with("2|files that lines include are not read here")
    );
    Ok(())
}

#[test]
fn a_file_is_checked_without_a_server() -> Result<()> {
    let dir = host::WorkDir::new()?;
    write(dir.path())?;
    let file = dir.path().join("rules.conf");
    host::write_private(&file, MAIN)?;
    let run = |arguments: &[&str]| {
        Program::new("pg_custodian_rules", dir.path())?
            .args(arguments)
            .run()
    };
    let file = file.display().to_string();
    assert!(run(&["check", &file])?.ok()?.ends_with("7 rules, no error"));
    let inside = run(&["peer", &file, "--address=10.86.1.1", "--region=cn"])?;
    assert!(
        inside
            .ok()?
            .contains("verdict: inside\nregion: cn\nline: 1 of ")
    );
    let outside = run(&["peer", &file, "--address=10.33.1.1", "--region=cn"])?;
    assert_eq!(outside.code(), Some(1));
    assert!(
        outside
            .all()
            .contains("verdict: outside\nregion: eu\norganisation: acme\n"),
        "{outside}"
    );
    let socket = run(&["peer", &file, "--role=postgres", "--region=cn"])?;
    assert!(socket.ok()?.contains("line: 4\n"));

    let eu = dir.path().join("regions.d/10-eu.conf");
    fs::write(&eu, "netwrk x\n")?;
    let wrong = run(&["check", &file])?;
    assert_eq!(wrong.code(), Some(1));
    assert!(
        wrong.all().contains(&format!(
            "{}: line 1: \"netwrk\" is no type of rule",
            eu.display()
        )),
        "{wrong}"
    );
    // What is no ordinary file, and would be waited for.
    let pipe = dir.path().join("regions.d/30-pipe.conf");
    fs::write(&eu, "region eu\n")?;
    Program::new("mkfifo", dir.path())?.arg(&pipe).run()?.ok()?;
    for lines in [
        MAIN.to_owned(),
        format!("region cn\ninclude {}\n", pipe.display()),
    ] {
        fs::write(&file, &lines)?;
        let whole = run(&["check", &file])?.all();
        let refused = whole.contains("is not an ordinary file");
        assert_eq!(refused, lines != MAIN, "{whole}");
    }
    assert_eq!(run(&["check", "nowhere.conf"])?.code(), Some(1));
    assert_eq!(run(&["peer", &file, "--address=x"])?.code(), Some(2));
    let twice = ["peer", &file, "--region=cn", "--copied-region=cn"];
    assert_eq!(run(&twice)?.code(), Some(2));
    assert_eq!(run(&[])?.code(), Some(2));
    Ok(())
}

#[test]
fn the_check_without_a_server_answers_as_the_server_does_about_a_region_that_was_copied()
-> Result<()> {
    needs_net!();
    let net = Net::new(&["cn-a"])?;
    let own = net.at("cn-a").address();
    let rules = format!(
        "region cn\nregion sh in cn\nregion eu\nnode {own} cn\nnetwork 10.86.0.0/16 sh\nlocal postgres\n"
    );
    let node = Cluster::builder("copied")
        .preload("pg_custodian")
        .place(net.at("cn-a"))
        .conf("include_if_exists = '../region.conf'")
        .file("custodian_regions.conf", &rules)
        .start()?;
    node.exec("CREATE EXTENSION pg_custodian")?;
    let file = node.data_dir().join("custodian_regions.conf");
    let file = file.display().to_string();
    let elsewhere = node.data_dir().join("../region.conf");
    // A line and the setting agree where one lies in the other, unless the setting came with a copy and says less of the world.
    for (region, copied, verdict) in [
        ("cn", true, "inside"),
        ("cn", false, "inside"),
        ("sh", false, "inside"),
        ("sh", true, "unknown"),
        ("eu", false, "unknown"),
        ("eu", true, "unknown"),
    ] {
        let line = format!("custodian.region = '{region}'\n");
        let (here, there) = if copied {
            (line.as_str(), "")
        } else {
            ("", line.as_str())
        };
        node.write_file("postgresql.auto.conf", here)?;
        fs::write(&elsewhere, there)?;
        host::give(&elsewhere)?;
        node.restart()?;
        let server = node.text("SELECT verdict, reason FROM custodian.check_peer('10.86.0.7')")?;
        let option = if copied {
            "--copied-region"
        } else {
            "--region"
        };
        let answer = Program::new("pg_custodian_rules", &node.data_dir())?
            .args([
                "peer",
                &file,
                "--address=10.86.0.7",
                &format!("--node={own}"),
                &format!("{option}={region}"),
            ])
            .run()?
            .all();
        let told = |what: &str| {
            answer
                .lines()
                .find_map(|line| line.strip_prefix(what))
                .unwrap_or_default()
                .to_owned()
        };
        assert_eq!(
            format!("{}|{}", told("verdict: "), told("reason: ")),
            server,
            "{region} {copied}"
        );
        assert_eq!(told("verdict: "), verdict, "{region} {copied}: {answer}");
    }
    Ok(())
}
