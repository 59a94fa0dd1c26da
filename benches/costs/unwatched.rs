//! What a watcher costs each connection, and each UDP datagram, to a port that nobody watches.
//!
//! A thread, bound to one processor, talks to itself over loopback, again and again: a hundred times a batch. Of each run the batch in the middle counts, so that whoever else had the processor for a while does not.
//! Before and behind each watcher the same runs with nothing: what a watcher adds is told against the mean of the two.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::time::{Duration, Instant};

use rustix::net::sockopt::set_socket_linger;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use socket2::{Domain, Socket, Type};

use crate::figures::{Spread, cpu_us, number, thousands};
use crate::goals::Goal;
use crate::load::Crew;
use crate::plan::Plan;
use crate::tables::Table;
use crate::tellers::{self, Teller};
use crate::watch::{Log, Who};

const BATCH: usize = 100;

const AT_MOST_US: f64 = 1.0;

/// What the thread does.
#[derive(Clone, Copy, PartialEq)]
enum Load {
    /// Connects, and closes by a reset.
    Connections,
    /// Sends one datagram by a new socket.
    Flows,
    /// Sends one more by the same.
    Datagrams,
}

impl Load {
    fn words(self) -> &'static str {
        match self {
            Self::Connections => "A connection",
            Self::Flows => "A UDP flow of one datagram",
            Self::Datagrams => "One more UDP datagram",
        }
    }
}

/// For one connection.
#[derive(Clone, Copy)]
struct Cost {
    cpu_us: f64,
    /// Of all kernel threads: some of what a watcher causes is done by those.
    threads_us: f64,
    wall_us: f64,
}

/// All runs beside one watcher.
#[derive(Default)]
struct Runs {
    cpu_us: Vec<f64>,
    more_cpu_us: Vec<f64>,
    more_threads_us: Vec<f64>,
    wall_us: Vec<f64>,
    more_wall_us: Vec<f64>,
    own_us: Vec<f64>,
}

pub fn run(plan: &Plan) -> Vec<Goal> {
    let _ssh = Crew::server();
    let all: Vec<Teller> = tellers::all().into_iter().chain(tellers::rules()).collect();
    let with_udp: Vec<Teller> =
        all.iter().filter(|teller| teller.has_udp || teller.watcher.is_none()).cloned().collect();
    let goals = measure(Load::Connections, all, plan);
    measure(Load::Flows, with_udp.clone(), plan);
    measure(Load::Datagrams, with_udp, plan);
    goals
}

fn measure(load: Load, tellers: Vec<Teller>, plan: &Plan) -> Vec<Goal> {
    let tellers: Vec<Option<Teller>> = std::iter::once(None).chain(tellers.into_iter().map(Some)).collect();
    let mut runs: Vec<Runs> = tellers.iter().map(|_| Runs::default()).collect();
    let mut before = repeat(load, plan.unwatched);
    for round in 1..=plan.rounds {
        eprintln!("unwatched: {}, round {round} of {}", load.words(), plan.rounds);
        for (teller, runs) in tellers.iter().zip(&mut runs) {
            let beside = beside(load, teller.as_ref(), plan);
            let after = repeat(load, plan.unwatched);
            if let Some((cost, own_us)) = beside {
                runs.add(cost, [before, after], own_us);
            }
            before = after;
        }
    }
    print(load, &tellers, &runs, plan);
    let wanted =
        |who| move |teller: &Option<Teller>| teller.as_ref().is_some_and(|one| one.who() == Some(who));
    let more = |who| {
        let index = tellers.iter().position(wanted(who))?;
        Some(Spread::of(runs[index].more_cpu_us.clone()).median())
    };
    let Some(own) = more(Who::Portreeve) else { return Vec::new() };
    let what = "a connection to an unwatched port, ebpf: CPU in its process, µs";
    let goal = Goal::new(what, &AT_MOST_US.to_string(), number(own), own <= AT_MOST_US);
    let others = [Who::Tracer, Who::Conntrack].into_iter().filter_map(|who| Some((who, more(who)?)));
    vec![others.fold(goal, |goal, (who, us)| goal.beside(who, number(us)))]
}

/// What it costs beside this one, and what that one itself uses meanwhile; both for one connection.
fn beside(load: Load, teller: Option<&Teller>, plan: &Plan) -> Option<(Cost, f64)> {
    let Some(teller) = teller else { return Some((repeat(load, plan.unwatched), f64::NAN)) };
    if teller.watcher.is_none() {
        let _rule = teller.rule().ok()?;
        return Some((repeat(load, plan.unwatched), f64::NAN));
    }
    let log = Log::new();
    let mut standing =
        teller.start_into(&log).inspect_err(|error| eprintln!("{}: {error}", teller.name)).ok()?;
    std::thread::sleep(Duration::from_millis(300));
    standing.running.settle();
    let began = Instant::now();
    let cost = repeat(load, plan.unwatched);
    let wall = began.elapsed();
    let own = standing.running.stop()?;
    Some((cost, own.percent / 100.0 * wall.as_secs_f64() * 1e6 / plan.unwatched as f64))
}

impl Runs {
    fn add(&mut self, cost: Cost, around: [Cost; 2], own_us: f64) {
        let [before, after] = around;
        self.cpu_us.push(cost.cpu_us);
        self.more_cpu_us.push(cost.cpu_us - f64::midpoint(before.cpu_us, after.cpu_us));
        self.more_threads_us.push(cost.threads_us - f64::midpoint(before.threads_us, after.threads_us));
        self.wall_us.push(cost.wall_us);
        self.more_wall_us.push(cost.wall_us - f64::midpoint(before.wall_us, after.wall_us));
        self.own_us.push(own_us);
    }
}

fn print(load: Load, tellers: &[Option<Teller>], runs: &[Runs], plan: &Plan) {
    let title = format!(
        "{} to a port that nobody watches, both ends here, µs: {} runs of {}",
        load.words(),
        plan.rounds,
        thousands(plan.unwatched as u64)
    );
    let head = [
        "",
        "CPU in its process",
        "more than nothing",
        "kernel threads, more",
        "time",
        "more than nothing",
        "the watcher's own CPU",
    ];
    let mut table = Table::new(&title, head.map(str::to_owned));
    for (teller, runs) in tellers.iter().zip(runs) {
        let name = teller.as_ref().map_or("nothing, against nothing", |teller| &teller.name);
        let Runs { cpu_us, more_cpu_us, more_threads_us, wall_us, more_wall_us, own_us } = runs;
        let median = |values: &Vec<f64>| number(Spread::of(values.clone()).median());
        let all = |values: &Vec<f64>| Spread::of(values.clone()).show();
        table.row(
            name,
            [
                median(cpu_us),
                all(more_cpu_us),
                all(more_threads_us),
                median(wall_us),
                all(more_wall_us),
                median(own_us),
            ],
        );
    }
    table.print(plan.markdown);
    if load == Load::Connections {
        tellers::print_missing();
    }
}

/// In a thread of its own, which alone is bound: what is started by others must not inherit that.
fn repeat(load: Load, count: usize) -> Cost {
    let before = kernel_threads_cpu_us();
    let thread = std::thread::spawn(move || {
        bind_to_the_last_processor();
        let mut act = act(load);
        let batches: Vec<Batch> = (0..count.div_ceil(BATCH)).map(|_| batch(&mut act)).collect();
        let middle = |value: fn(&Batch) -> f64| Spread::of(batches.iter().map(value).collect()).median();
        (middle(|batch| batch.cpu_us), middle(|batch| batch.wall_us))
    });
    let (cpu_us, wall_us) = thread.join().expect("the connecting thread");
    // What the last ones left to do.
    std::thread::sleep(Duration::from_millis(20));
    let threads_us = (kernel_threads_cpu_us() - before) / count as f64;
    Cost { cpu_us, threads_us, wall_us }
}

fn bind_to_the_last_processor() {
    let Ok(allowed) = sched_getaffinity(None) else { return };
    if let Some(last) = (0..CpuSet::MAX_CPU).rfind(|cpu| allowed.is_set(*cpu)) {
        let mut one = CpuSet::new();
        one.set(last);
        let _ = sched_setaffinity(None, &one);
    }
}

/// CPU time of all that have no program of their own, children of `kthreadd`.
fn kernel_threads_cpu_us() -> f64 {
    let threads = fs::read_dir("/proc").into_iter().flatten().flatten().filter(|entry| {
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.split(' ').nth(1) == Some("2"))
    });
    let cpu_ns = threads.filter_map(|entry| {
        let schedstat = fs::read_to_string(entry.path().join("schedstat")).ok()?;
        schedstat.split_whitespace().next()?.parse::<f64>().ok()
    });
    cpu_ns.sum::<f64>() / 1e3
}

struct Batch {
    cpu_us: f64,
    wall_us: f64,
}

fn batch(act: &mut impl FnMut()) -> Batch {
    let began = Instant::now();
    let cpu_us = cpu_us(|| (0..BATCH).for_each(|_| act()));
    Batch { cpu_us: cpu_us / BATCH as f64, wall_us: began.elapsed().as_secs_f64() * 1e6 / BATCH as f64 }
}

fn act(load: Load) -> Box<dyn FnMut()> {
    let any = (Ipv4Addr::LOCALHOST, 0);
    if load == Load::Connections {
        let listener = TcpListener::bind(any).expect("a port");
        return Box::new(move || connect(&listener));
    }
    let receiver = UdpSocket::bind(any).expect("a port");
    let to = receiver.local_addr().expect("its address");
    let sender = move || {
        let sender = UdpSocket::bind(any).expect("a port");
        sender.connect(to).expect("a remote end");
        sender
    };
    let same = (load == Load::Datagrams).then(sender);
    Box::new(move || {
        let new = same.is_none().then(sender);
        let sender = same.as_ref().or(new.as_ref()).expect("one of the two");
        sender.send(b".").expect("room for a datagram");
        receiver.recv(&mut [0; 1]).expect("the datagram");
    })
}

fn connect(listener: &TcpListener) {
    let near = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    near.connect(&listener.local_addr().expect("its address").into()).expect("a connection");
    set_socket_linger(&near, Some(Duration::ZERO)).expect("an option");
    let far = listener.accept().expect("its other end");
    // The near end first.
    drop(near);
    drop(far);
}
