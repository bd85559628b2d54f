//! The console by keys, and how it looks on 80 columns and 24 lines.

use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::super::view;
use super::*;
use crate::tui::wizard::Key;

fn management() -> Management {
    let text = "apiVersion: furrow.io/v1alpha1\nkind: Node\nhostname: n1\nmanagement: {interface: eth0, address: 10.0.0.1, prefixLength: 24, vip: 10.0.0.9}\nceph: {disks: [{path: /dev/b}]}\n";
    crate::config::parse(text).expect("good").management
}

fn part(name: &'static str, level: Level, text: &str) -> Part {
    Part::new(name, level, text)
}

fn pages(locked: bool) -> Pages {
    let mut pages = Pages::new(locked);
    pages.observed(Probe::Ceph, vec![part("ceph", Level::Warning, "HEALTH_WARN (one OSD is down)")]);
    pages.observed(Probe::Network, vec![part("addresses", Level::Well, "10.0.0.1 on eth0")]);
    pages
}

fn press(pages: &mut Pages, keys: &[Key]) -> Action {
    keys.iter().fold(Action::Stay, |_, key| pages.key(*key))
}

fn write(pages: &mut Pages, text: &str) {
    text.chars().for_each(|c| {
        pages.key(Key::Char(c));
    });
}

fn shown(pages: &Pages) -> String {
    let mut terminal = Terminal::new(TestBackend::new(80, 24)).expect("a terminal");
    terminal.draw(|frame| view::draw(frame, pages, "n1")).expect("drawn");
    terminal.backend().to_string()
}

#[test]
fn the_state_is_shown_in_its_order_with_the_worst_in_the_title() {
    let mut pages = pages(false);
    let text = shown(&pages);
    assert!(text.contains("n1 works, see below"), "{text}");
    assert!(text.find("addresses").expect("there") < text.find("ceph").expect("there"), "{text}");
    pages.observed(Probe::Services, vec![part("k3s", Level::Fault, "failed")]);
    assert!(shown(&pages).contains("n1 IS NOT WELL"));
}

#[test]
fn a_part_that_does_not_fit_is_shown_whole_below_when_chosen() {
    let mut pages = pages(false);
    let long = format!("{} END", "reason ".repeat(15));
    pages.observed(Probe::Ceph, vec![part("ceph", Level::Fault, &long)]);
    assert!(!shown(&pages).contains("END"));
    pages.key(Key::Down);
    assert!(shown(&pages).contains("END"), "{}", shown(&pages));
}

#[test]
fn more_parts_than_lines_are_reached_by_the_cursor() {
    let mut pages = Pages::new(false);
    pages.observed(Probe::Services, vec![part("unit", Level::Well, "active"); 30]);
    pages.observed(Probe::Machine, vec![part("disks", Level::Well, "the last one")]);
    assert!(!shown(&pages).contains(" disks"), "{}", shown(&pages));
    press(&mut pages, &[Key::Down; 40]);
    assert!(shown(&pages).contains(">disks"), "{}", shown(&pages));
}

#[test]
fn every_page_fits_and_names_its_keys() {
    let mut all = pages(false);
    for (page, keys) in [
        (Page::State, "N network  L logs  S shell  R restart  P power off  X reset"),
        (Page::Password(Goal::Network), "Esc back"),
        (Page::Trial, "K keep the new network   T take it back"),
        (Page::Logs, "Enter other log"),
        (Page::Power(Power::Off), "type the word"),
        (Page::Reset, "Esc back"),
    ] {
        all.page = page;
        let text = shown(&all);
        assert!(text.contains(keys), "{page:?}: {text}");
    }
    all.open_network(Ok(management()));
    let text = shown(&all);
    for line in ["10.0.0.1/24", "cards", "< static >", "Space turns"] {
        assert!(text.contains(line), "no `{line}`: {text}");
    }
}

#[test]
fn all_but_looking_asks_for_the_password_once() {
    for key in ['n', 'l', 'r', 'p', 'x'] {
        let mut pages = pages(true);
        assert_eq!(pages.key(Key::Char(key)), Action::Stay);
        assert!(matches!(pages.page, Page::Password(_)), "{key}");
        write(&mut pages, "secret");
        assert!(!shown(&pages).contains("secret") && shown(&pages).contains("******"), "{}", shown(&pages));
        assert_eq!(pages.key(Key::Enter), Action::CheckPassword("secret".into()));
        assert_eq!(pages.password_checked(Ok(false)), Action::Stay);
        assert!(shown(&pages).contains("that is not root's password"));
        assert!(pages.locked && matches!(pages.page, Page::Password(_)));
        pages.password_checked(Ok(true));
        assert!(!pages.locked && !matches!(pages.page, Page::Password(_)), "{key}");
    }
    assert_eq!(pages(true).key(Key::Char('s')), Action::Login, "a login asks itself");
}

#[test]
fn nobody_finds_an_open_page_of_who_went_away() {
    let mut pages = pages(false);
    pages.open_network(Ok(management()));
    pages.lock(true);
    assert_eq!((pages.page, pages.locked), (Page::State, true));
    pages.page = Page::Trial;
    pages.lock(true);
    assert_eq!(pages.page, Page::Trial, "a trial is answered without");
}

#[test]
fn a_machine_stops_only_by_a_typed_word() {
    for (key, word, power) in [('r', "restart", Power::Restart), ('p', "off", Power::Off)] {
        let mut pages = pages(false);
        pages.key(Key::Char(key));
        assert_eq!(pages.key(Key::Enter), Action::Stay);
        assert!(shown(&pages).contains(&format!("type `{word}` and press Enter")));
        write(&mut pages, word);
        assert_eq!(pages.key(Key::Enter), Action::Stop(power));
        pages.key(Key::Char(key));
        write(&mut pages, "yes");
        assert_eq!(pages.key(Key::Enter), Action::Stay);
        assert_eq!((pages.key(Key::Back), pages.page), (Action::Stay, Page::State));
    }
}

#[test]
fn a_node_is_erased_only_by_its_typed_name() {
    let mut pages = pages(false);
    assert_eq!(pages.key(Key::Char('x')), Action::OpenReset);
    pages.open_reset(&["n1 is made blank:".into(), "ERASED /dev/vda (17 GB)".into()], Some("n1".into()));
    assert!(shown(&pages).contains("ERASED /dev/vda (17 GB)"), "{}", shown(&pages));
    assert_eq!(pages.key(Key::Enter), Action::Stay);
    assert!(shown(&pages).contains("type `n1` and press Enter"), "{}", shown(&pages));
    write(&mut pages, "n1");
    assert!(shown(&pages).contains("to erase all of it: n1_"), "{}", shown(&pages));
    assert_eq!((pages.key(Key::Enter), pages.page), (Action::Reset, Page::State));
}

#[test]
fn a_reset_that_is_refused_says_why_and_cannot_be_confirmed() {
    let mut pages = pages(false);
    pages.open_reset(&["n1 is not reset:".into(), "- it is a member of a cluster with n2".into()], None);
    assert!(shown(&pages).contains("a cluster with n2") && !shown(&pages).contains("Type the node's name"));
    write(&mut pages, "n1");
    assert_eq!((pages.key(Key::Enter), pages.page), (Action::Stay, Page::State));
    pages.open_reset(&[], Some("n1".into()));
    pages.lock(true);
    assert_eq!(pages.page, Page::State, "nobody finds it open who has not the password");
}

#[test]
fn a_network_is_changed_by_its_form_and_keeps_what_is_not_asked() {
    let mut pages = pages(false);
    assert_eq!(pages.key(Key::Char('N')), Action::OpenNetwork);
    pages.open_network(Ok(management()));
    press(&mut pages, &[Key::Down; 20]);
    assert_eq!(pages.key(Key::Enter), Action::Stay);
    assert!(shown(&pages).contains("nothing has changed"));
    press(&mut pages, &[Key::Up; 20]);
    press(&mut pages, &[Key::Down, Key::Erase, Key::Erase, Key::Erase, Key::Erase]);
    write(&mut pages, "7/24");
    press(&mut pages, &[Key::Down; 20]);
    let Action::Try(wanted) = pages.key(Key::Enter) else { panic!("{:?}", pages.notice) };
    assert_eq!(*wanted, Management { address: "10.0.0.7".parse().expect("an address"), ..management() });
    pages.tried(Err("management: there is no network card eth0".into()));
    assert_eq!(pages.page, Page::Network, "the answers stay");
    pages.tried(Ok(60));
    assert!(shown(&pages).contains("In 60 s the old one comes back"), "{}", shown(&pages));
}

#[test]
fn a_trial_ends_by_a_key_or_by_itself() {
    let mut pages = pages(true);
    pages.trial_is(Some(42));
    assert_eq!(pages.page, Page::Trial, "also one that was begun elsewhere");
    assert_eq!(press(&mut pages, &[Key::Enter, Key::Back, Key::Char('x')]), Action::Stay);
    assert_eq!(pages.key(Key::Char('k')), Action::Keep);
    assert_eq!(pages.key(Key::Char('T')), Action::TakeBack);
    pages.trial_is(Some(1));
    pages.trial_is(None);
    assert_eq!(pages.page, Page::State);
    assert!(shown(&pages).contains("the network is as it was before"));
}

#[test]
fn the_log_of_the_chosen_part_is_opened_and_others_are_turned_to() {
    let mut pages = pages(false);
    pages.key(Key::Down);
    assert_eq!(pages.key(Key::Enter), Action::ReadLogs);
    assert!(shown(&pages).contains("log of ceph"), "{}", shown(&pages));
    assert_eq!(pages.key(Key::Next), Action::ReadLogs);
    assert!(shown(&pages).contains("log of libvirt"));
    pages.key(Key::Previous);
    assert!(shown(&pages).contains("log of ceph"));
    pages.key(Key::Back);
    assert_eq!(pages.page, Page::State);
}
