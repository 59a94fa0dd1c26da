//! What is joined, and what is not.
use super::*;

#[test]
fn a_way_over_four_hosts_is_one_way() {
    let [laptop, bastion, web1, db1] = chain();
    let ways = ways(&[&db1, &web1, &laptop, &bastion]);
    assert_eq!(routes(&ways), ["local_tty>laptop>bastion>web1>db1", "local_tty>laptop>bastion>web2"]);
}
