//! The watcher as the daemon puts it together, with clocks that are given.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use portreeve::cli::SyncChoice;
use portreeve::connection::Moment;
use portreeve::daemon::{self, Steps};
use portreeve::event::{Event, Host, Started, What};
use portreeve::ledger::{self, Ledger, Output};
use portreeve::pipeline::{Outside, Pipeline};
use portreeve::proc::Proc;
use portreeve::secrets::Masker;
use portreeve::sink::{Destination, Format, LogFile};
use portreeve::source::{Filter, Selection};
use portreeve::state::Folder;

pub struct Watcher {
    pub pipeline: Pipeline,
    pub ledger: Ledger,
    steps: Steps,
    last: Option<Moment>,
}

/// Where the log and its state are.
pub struct Paths {
    pub log: PathBuf,
    pub state: PathBuf,
}

/// The folder is ours again as soon as the thread of a watcher that was killed has ended.
fn open_folder(path: &Path) -> Folder {
    for _ in 0..2_000 {
        match Folder::open(path) {
            Ok(folder) => return folder,
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
    panic!("{} stays locked", path.display());
}

impl Watcher {
    pub fn start(proc: &Proc, paths: &Paths, boot: &str, at: Moment, clock: Rc<Cell<Duration>>) -> Self {
        let output = Output {
            format: Format::Json,
            state: Some(open_folder(&paths.state)),
            destination: Destination::File(LogFile::open(&paths.log).unwrap()),
            sync: SyncChoice::Interval,
            sealer: None,
        };
        let boot = Some(boot.to_owned());
        let found = ledger::find(&output);
        let new_id = daemon::new_ids(found.beginning.last_id);
        let host =
            Host { name: "h".into(), boot_id: boot.clone(), os: None, kernel: None, ticks_per_second: 100 };
        let (ledger, beginning) = Ledger::new(output, found, host, new_id.clone(), at).unwrap();
        let outside = Outside {
            new_id: Box::new(new_id),
            user_name: Box::new(|_| None),
            boottime: Box::new(move || clock.get()),
            cputime: Box::new(|| Duration::ZERO),
        };
        let select = Selection::new("22".parse().unwrap(), Filter::default());
        let pipeline = Pipeline::new(proc, select, Masker::new(&[]), outside, Duration::from_secs(1), 100);
        let mut watcher = Self { pipeline, ledger, steps: Steps::default(), last: None };
        watcher.tell_time(at);
        let mut started = started();
        started.stream = beginning.stream;
        started.stream_reason = beginning.reason;
        started.previous_end = beginning.previous.map(|(_, clean)| if clean { "clean" } else { "unclean" });
        watcher.ledger.push(Event { at, what: What::Started(Box::new(started)) });
        if let Some((from, _)) = beginning.previous {
            let told = daemon::resume(&mut watcher.pipeline, beginning.live, from, &boot, at);
            told.into_iter().for_each(|event| watcher.ledger.push(event));
        }
        watcher
    }

    fn tell_time(&mut self, at: Moment) {
        if let Some(by_us) = self.steps.look(at) {
            self.ledger.push(Event { at, what: What::ClockStepped { by_us } });
        }
    }

    fn tell_stall(&mut self, at: Moment) {
        let last = self.last.replace(at).filter(|last| at.boot - last.boot > Duration::from_millis(1_050));
        if let Some(last) = last {
            self.ledger.push(Event::lost(last, at, "stalled", None, None));
        }
    }

    /// True if the tables were read and all was written.
    pub fn tick(&mut self, proc: &Proc, at: Moment) -> bool {
        self.tell_time(at);
        self.tell_stall(at);
        let reads = self.pipeline.totals().reads;
        let outcome = self.pipeline.tick(proc, at);
        outcome.into_iter().flatten().for_each(|event| self.ledger.push(event));
        self.ledger.flush(at).unwrap();
        self.ledger.turn(at, || self.pipeline.live());
        self.pipeline.totals().reads > reads && self.ledger.is_idle()
    }

    pub fn stop(mut self, at: Moment) {
        self.tell_time(at);
        self.pipeline.cover(at, true).into_iter().flatten().for_each(|event| self.ledger.push(event));
        let mut totals = self.pipeline.totals();
        totals.lost = self.ledger.lost();
        let what = What::Stopped { reason: "SIGTERM".into(), totals: Box::new(totals) };
        self.ledger.push(Event { at, what });
        // A disk that is full stays so: patience has an end.
        let passed = Cell::new(Duration::ZERO);
        let now = || Moment { boot: at.boot + passed.get(), ..at };
        let nap = || passed.set(passed.get() + Duration::from_millis(5));
        self.ledger.close(self.pipeline.live(), Duration::from_millis(50), &now, &nap);
    }
}

fn started() -> Started {
    let settings = serde_json::json!({ "ports": "22", "interval": "50ms" });
    Started {
        settings: settings.as_object().unwrap().clone(),
        owners: "all",
        capabilities: Vec::new(),
        uid: 0,
        netns: Some(4_026_531_840),
        init_netns: Some(4_026_531_840),
        source: "procfs",
        source_reason: "a model".into(),
        events: portreeve::source::Kind::ALL.into_iter().map(|kind| (kind.name(), "off".into())).collect(),
        netns_scope: "own",
        namespaces: 1,
        stream: "new",
        stream_reason: None,
        previous_end: None,
        executable_sha256: Some("0".repeat(64)),
        warnings: Vec::new(),
    }
}
