//! What it looks like.
use super::*;

#[test]
fn a_tree_shows_the_way() {
    let [laptop, bastion, web1, db1] = chain();
    println!("{}", text(&[&laptop, &bastion, &web1, &db1]));
}
