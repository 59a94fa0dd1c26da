//! Options, keys and subcommands: clap knows them, portreeve(8) and portreeve.toml(5) must.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};

use clap::{Arg, Args, CommandFactory};
use portreeve::cli::{Cli, Options};

use crate::page::Page;

type Names = BTreeSet<String>;

/// The program's command line, with what clap adds to it.
fn cli() -> clap::Command {
    let mut command = Cli::command();
    command.build();
    command
}

/// What the command line and the configuration file share.
fn options() -> clap::Command {
    let mut command = Options::augment_args(clap::Command::new("options")).disable_help_flag(true);
    command.build();
    command
}

/// `watch`, `config check`, …: each with its arguments.
fn subcommands(of: &clap::Command, path: &str) -> Vec<(String, clap::Command)> {
    let own = of.get_subcommands().filter(|sub| sub.get_name() != "help");
    own.flat_map(|sub| {
        let path = format!("{path} {}", sub.get_name());
        if sub.has_subcommands() { subcommands(sub, &path) } else { vec![(path, sub.clone())] }
    })
    .collect()
}

/// The options of a command as the page writes them: `-p, --ports LIST`.
fn synopses(command: &clap::Command) -> Names {
    let flags = command.get_arguments().filter(|arg| !arg.is_positional());
    flags.map(synopsis).collect()
}

fn synopsis(arg: &Arg) -> String {
    let long = arg.get_long().unwrap();
    let short = arg.get_short().map(|short| format!("-{short}, ")).unwrap_or_default();
    let takes = arg.get_action().takes_values() && arg.get_num_args().unwrap().takes_values();
    let value = arg.get_value_names().filter(|_| takes).map(|names| format!(" {}", names[0]));
    format!("{short}--{long}{}", value.unwrap_or_default())
}

/// The options that a section describes; what is marked with a star loses it.
fn described(section: &str) -> Names {
    let items = section.lines().filter_map(|line| line.strip_prefix(".It Fl "));
    let words = |item: &str| {
        let item = item.replace("Fl ", "").replace(" , ", ", ").replace("Ar ", "").replace(" No *", "");
        item.split(", ").map(|word| format!("-{word}")).collect::<Vec<_>>().join(", ")
    };
    items.map(words).collect()
}

#[test]
fn every_option_is_described_where_it_belongs_and_none_is_invented() {
    let page = Page::open("portreeve.8");
    let commands = subcommands(&cli(), "portreeve");
    let of = |name: &str| synopses(&commands.iter().find(|(path, _)| path == name).unwrap().1);
    let everywhere = Names::from(["-h, --help".to_owned()]);
    let version = Names::from(["-V, --version".to_owned()]);
    let watch = &of("portreeve watch") | &version;
    assert_eq!(synopses(&cli()), watch, "without a subcommand: watch");
    for (path, command) in &commands {
        let real = match path.as_str() {
            "portreeve watch" => watch.clone(),
            "portreeve config show" => &synopses(command) - &watch,
            _ => &synopses(command) - &everywhere,
        };
        assert_eq!(described(page.part(path)), real, "{path}");
    }
    let sections = page.text.lines().filter_map(|line| line.strip_prefix(".Ss portreeve "));
    assert_eq!(sections.count(), commands.len());
}

#[test]
fn the_synopsis_has_every_option() {
    let page = Page::open("portreeve.8");
    for (_, command) in subcommands(&cli(), "portreeve") {
        for arg in command.get_arguments().filter(|arg| !["help", "version"].contains(&arg.get_id().as_str()))
        {
            let short = arg.get_short().map(|short| format!("Fl {short} "));
            let long = arg.get_long().map(|long| format!("Fl -{long}"));
            let is_there =
                [short, long].into_iter().flatten().any(|flag| page.part("SYNOPSIS").contains(&flag));
            assert!(arg.is_positional() || is_there || arg.get_id() == "quiet", "{arg}");
        }
    }
}

#[test]
fn the_star_marks_what_the_configuration_file_has_too() {
    let page = Page::open("portreeve.8");
    let starred: Vec<_> =
        page.part("portreeve watch").lines().filter(|line| line.ends_with(" No *")).collect();
    assert_eq!(described(&starred.join("\n")), synopses(&options()));
}

#[test]
fn every_key_is_described_and_none_is_invented() {
    let keys = Page::open("portreeve.toml.5").items("Va").into_keys();
    let real = options();
    assert_eq!(
        keys.collect::<Names>(),
        real.get_arguments().map(|arg| arg.get_long().unwrap().to_owned()).collect()
    );
}

#[test]
fn every_subcommand_is_completed_in_every_shell() {
    let cli = cli();
    let commands = subcommands(&cli, "");
    let names: Names =
        commands.iter().flat_map(|(path, _)| path.split_whitespace().map(str::to_owned)).collect();
    assert!(names.contains("watch") && names.contains("check"), "{names:?}");
    let synopsis = Page::open("portreeve.8").part("SYNOPSIS").to_owned();
    let shells = cli.find_subcommand("completions").unwrap();
    for shell in shells.get_arguments().next().unwrap().get_possible_values() {
        let shell = shell.get_name();
        let output = Command::new(env!("CARGO_BIN_EXE_portreeve"))
            .args(["completions", shell])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let script = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{shell}");
        for word in names.iter().map(String::as_str).chain(["interval", "log-file", "since", "follow"]) {
            assert!(script.contains(word), "{shell} completes no {word}");
        }
        assert!(synopsis.contains(shell), "{shell}");
    }
}
