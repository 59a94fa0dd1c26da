//! What portreeve costs, measured beside its floors and its peers in one run: `cargo bench --bench costs`.
//!
//! Only reports: no time passes or fails anything. `benches/README.md` says what each row means.
//! The program runs itself again under other names: once inside namespaces of its own (`cage`), and there
//! as every socket holder, sleeper and client that makes up the load (`roles`).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::disallowed_methods,
    reason = "a measuring program: it reads clocks, opens /proc itself, and stops at the first surprise"
)]

mod busy;
mod cage;
mod diag;
mod figures;
mod flood;
mod floors;
mod flows;
mod goals;
mod latency;
mod load;
mod machine;
mod memory;
mod newborn;
mod origin;
mod plan;
mod quiet;
mod recall;
mod records;
mod resident;
mod roles;
mod tables;
mod tap;
mod tellers;
mod told;
mod unwatched;
mod verify;
mod watch;

use std::process::ExitCode;

use cage::Pids;
use plan::{Plan, Section};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some("role") => roles::play(&args[1..]),
        Some("inside") => inside(&args[1..]),
        _ => match Plan::parse(&args) {
            Ok(Some(plan)) => enter(&plan, &args),
            Ok(None) => ExitCode::SUCCESS,
            Err(message) => {
                eprintln!("costs: {message}");
                ExitCode::from(2)
            }
        },
    }
}

/// One cage after the other, each for its sections.
fn enter(plan: &Plan, args: &[String]) -> ExitCode {
    for pids in [Pids::Own, Pids::First] {
        if plan.sections.iter().any(|section| section.pids() == pids) && !cage::enter(pids, args) {
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn inside(args: &[String]) -> ExitCode {
    let pids = Pids::parse(&args[0]);
    let mut plan = Plan::parse(&args[1..]).expect("parsed once outside").expect("asked for outside");
    plan.sections.retain(|section| section.pids() == pids);
    cage::settle(pids);
    print!("{}", machine::describe());
    let mut goals = Vec::new();
    for section in &plan.sections {
        let before = machine::Busy::now();
        let reached = match section {
            Section::Quiet => quiet::by_sockets(&plan),
            Section::Processes => quiet::by_processes(&plan),
            Section::Active => busy::active(&plan),
            Section::Forks => busy::forks(&plan),
            Section::Look => floors::look(&plan),
            Section::Newborn => newborn::run(&plan),
            Section::Origin => origin::run(&plan),
            Section::Memory => memory::run(&plan),
            Section::Recall => recall::run(&plan),
            Section::Flood => flood::run(&plan),
            Section::Verify => verify::run(&plan),
            Section::Flows => flows::run(&plan),
            Section::Unwatched => unwatched::run(&plan),
            Section::Latency => latency::run(&plan),
            Section::Told => told::run(&plan),
            Section::Resident => resident::run(&plan),
        };
        println!("{}", before.until_now());
        goals.extend(reached);
    }
    goals::print(goals, plan.markdown);
    ExitCode::SUCCESS
}
