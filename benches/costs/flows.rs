//! UDP: what one reading of many flows costs, and what watchers use beside them.

use std::fs::File;
use std::io::Read;
use std::time::Duration;

use portreeve::netlink::{Clause, Diag, Filter, states};
use portreeve::proc::{Net, Proc};

use crate::figures::{Spread, cpu_us, number, thousands};
use crate::floors::run_us;
use crate::goals::Goal;
use crate::load::Crew;
use crate::plan::Plan;
use crate::quiet::{Costs, measure, percent};
use crate::tables::{Table, head};
use crate::watch::{self, Log, Rights, Watcher, Who};

/// Flows to it are not watched.
const OTHER_PORT: u16 = 5_353;

const PER_S: u64 = 100;

const LIFE: Duration = Duration::from_millis(200);

pub fn run(plan: &Plan) -> Vec<Goal> {
    readings(plan);
    if !plan.quick {
        beside(plan);
    }
    Vec::new()
}

fn readings(plan: &Plan) {
    let title =
        "One reading of UDP flows, all to the watched port: CPU time in µs, median (min–max), by flows";
    let mut columns = Vec::new();
    for &flows in &plan.flows {
        eprintln!("flows: N = {flows}");
        let _load = [Crew::sleeping(100), Crew::flowing(flows, 22)];
        columns.push(read_all(plan));
    }
    let mut table = Table::new(title, head("", "N", &plan.flows));
    for (index, (name, _)) in columns[0].iter().enumerate() {
        table.row(name, columns.iter().map(|cells| cells[index].1.show()));
    }
    table.print(plan.markdown);
}

fn read_all(plan: &Plan) -> Vec<(&'static str, Spread)> {
    let proc = Proc::new("/proc").expect("/proc");
    let mut diag = Diag::open().expect("sock_diag");
    let filter = Filter::any_of([Clause::RemotePorts(22..=22)]);
    let by_files = || {
        let visit = |socket| {
            std::hint::black_box(socket);
        };
        proc.read_udp(Net::Own, visit).expect("net/udp");
    };
    let by_netlink = || {
        let visit = |socket| {
            std::hint::black_box(socket);
        };
        diag.dump_udp(states::UDP_CONNECTED, filter.as_ref(), visit).expect("a dump");
    };
    let mut buffer = vec![0; 64 * 1_024];
    let mut rows = vec![
        ("sock_diag: portreeve's reading", repeat(plan.looks, by_netlink)),
        ("files: read() loop to the empty read", repeat(plan.looks, || read_tables(&mut buffer))),
        ("files: portreeve's reading, parsed", repeat(plan.looks, by_files)),
    ];
    for (name, argv) in [
        ("ss -Hun dport = 22", &["ss", "-Hun", "dport = 22"][..]),
        ("ss -Hunp dport = 22", &["ss", "-Hunp", "dport = 22"]),
        ("lsof -Pn -i UDP:22", &["lsof", "-Pn", "-i", "UDP:22"]),
    ] {
        if watch::installed(argv[0]) {
            rows.push((name, Spread::repeat(plan.looks.min(5), |_| run_us(argv))));
        }
    }
    rows
}

fn repeat(times: usize, mut work: impl FnMut()) -> Spread {
    Spread::repeat(times, |_| cpu_us(&mut work))
}

fn read_tables(buffer: &mut [u8]) {
    for path in ["/proc/net/udp", "/proc/net/udp6"] {
        let mut file = File::open(path).expect(path);
        while file.read(buffer).expect(path) > 0 {}
    }
}

/// By which sources: polling alone, the tables as files, the kernel's own words. Of other namespaces nothing is read.
fn watchers() -> Vec<Watcher> {
    let options = [
        &["--events", "none"][..],
        &["--events", "none", "--transport", "tcp,udp"],
        &["--events", "none", "--transport", "tcp,udp", "--source", "procfs"],
        &["--events", "ebpf", "--transport", "tcp,udp"],
    ];
    let own = |options: &[&str]| {
        let options: Vec<&str> = ["--netns", "own"].iter().chain(options).copied().collect();
        Some(watch::portreeve_with(Rights::Root, &options)?.tethered())
    };
    options.into_iter().filter_map(own).collect()
}

/// Flows that stand, and flows that come and go.
fn beside(plan: &Plan) {
    let flows = plan.flows.last().copied().unwrap_or(0);
    let watchers = watchers();
    let time = |who| if who == Who::Portreeve { plan.watch * 3 } else { plan.watch };
    let quiet = |port, sends: bool| -> Costs {
        eprintln!("flows: {flows} to port {port}, {}", if sends { "others come and go" } else { "quiet" });
        let _load = [Crew::ssh(), Crew::sleeping(100), Crew::flowing(flows, port)];
        let _sends = sends.then(|| Crew::sending(PER_S, LIFE));
        measure(&watchers, plan, time)
    };
    let columns = [quiet(OTHER_PORT, false), quiet(22, false), quiet(OTHER_PORT, true)];
    let title = format!(
        "{} UDP flows stand: % of one core, by what else happens; sent and told of {PER_S} flows a second of {} ms",
        thousands(flows as u64),
        LIFE.as_millis()
    );
    let head =
        ["", "not watched, quiet", "all watched, quiet", "not watched, others come and go", "sent", "told"];
    let mut table = Table::new(&title, head.map(str::to_owned));
    for (index, watcher) in watchers.iter().enumerate() {
        let shares = columns.iter().map(|costs| percent(&costs[index]).show());
        let told = if index == 0 { ["-".to_owned(), "-".to_owned()] } else { told(watcher, flows, plan) };
        table.row(&watcher.name, shares.chain(told));
    }
    table.print(plan.markdown);
}

/// How many of those that come and go it tells, beside flows that stand.
fn told(watcher: &Watcher, flows: usize, plan: &Plan) -> [String; 2] {
    let _load = [Crew::ssh(), Crew::sleeping(100), Crew::flowing(flows, OTHER_PORT)];
    let log = Log::new();
    let running = watcher.start(log.stdout());
    std::thread::sleep(Duration::from_secs(1));
    let time = plan.watch * 3;
    let sender = Crew::sending(PER_S, LIFE);
    std::thread::sleep(time);
    drop(sender);
    std::thread::sleep(Duration::from_secs(1));
    running.stop();
    let is_flow =
        |line: &String| line.contains("\"connection-opened\"") && line.contains("\"transport\":\"udp\"");
    let told = log.lines().filter(is_flow).count();
    [number(PER_S as f64 * time.as_secs_f64()), thousands(told as u64)]
}
