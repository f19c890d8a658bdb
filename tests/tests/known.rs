//! Real daemons among simulated members: they join, know all of them, and their VPN knows whom it could reach.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by its panic")]

use tests::known::known;

#[test]
fn a_real_member_joins_simulated_ones_and_knows_them_all() {
    let known = known(40, 4, 2).unwrap();
    println!("{known:?}");
    assert_eq!((known.members, known.neighbours), (41, 4));
    let ipcpd = known.memory_kib["ipcpd"];
    assert!(known.memory_kib["together"] > ipcpd && ipcpd > 1000);
}
