//! Nodes and peers with addresses of version 6.

use integration::{Cluster, Net, Place, Result, needs_net};

const CANARY: &str = "canary-4711";
const NODE: &str = "fd86::1";

/// What a peer gets to see by a program of PostgreSQL's, connected over version 6.
fn run(node: &Cluster, from: &Place, program: &str, arguments: &[&str]) -> Result<(bool, String)> {
    let run = node.program(program)?.role("app").from(from);
    let output = run.args(["-h", NODE]).args(arguments).run()?;
    Ok((output.success(), output.all()))
}

#[test]
fn peers_over_ipv6_are_judged_by_their_networks() -> Result<()> {
    needs_net!();
    let net = Net::new(&["cn-a", "cn-b", "eu"])?;
    let (near, far) = (net.at("cn-b"), net.at("eu"));
    for (place, address) in [(net.at("cn-a"), NODE), (near, "fd86::2"), (far, "fd33::1")] {
        place.add_address(address)?;
    }
    // No rule names an address of version 4, so all of it is told by those of version 6: also where the node is.
    let node = Cluster::builder("node")
        .preload("pg_custodian")
        .place(net.at("cn-a"))
        .conf("custodian.disposal = off")
        .conf("listen_addresses = '*'")
        .file(
            "custodian_regions.conf",
            "region cn\nregion eu\nlocal postgres\nnode fd86::1 cn\nnetwork fd86::/32 cn\nnetwork fd33::/32 eu\n",
        )
        .start()?;
    node.exec(&format!(
        "CREATE EXTENSION pg_custodian; CREATE ROLE app LOGIN SUPERUSER REPLICATION;
         CREATE TABLE customer (id int PRIMARY KEY, email text);
         INSERT INTO customer VALUES (1, '{CANARY}');
         SELECT custodian.define_purpose('shop.orders', 'contract', '1 year');
         SELECT custodian.tag_column('customer', 'email', 'user.contact.email', '{{shop.orders}}', residency => '{{cn}}')"
    ))?;
    node.alter_system("custodian.enforce", "on")?;
    let status = node.text("SELECT region FROM custodian.status")?;
    assert_eq!(status, "cn");

    let read: &[&str] = &["-d", "postgres", "-c", "SELECT email FROM customer"];
    let copy: &[&str] = &["-D", "-", "-F", "tar", "-X", "fetch", "-c", "fast"];
    for (program, arguments) in [("psql", read), ("pg_basebackup", copy)] {
        let (lawful, seen) = run(&node, near, program, arguments)?;
        assert!(lawful && seen.contains(CANARY), "{program}: {seen}");
        let (lawful, seen) = run(&node, far, program, arguments)?;
        assert!(!lawful && !seen.contains(CANARY), "{program}: {seen}");
        assert!(seen.contains("fd33::1"), "{program}: {seen}");
    }
    let peer = node.text("SELECT verdict || ' ' || region FROM custodian.check_peer('fd86::7')")?;
    assert_eq!(peer, "inside cn");
    Ok(())
}
