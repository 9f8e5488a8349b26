//! Both sides joined by a socket pair, and one of them hostile.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::time::Duration;

use super::channel::{Heard, WINDOW};
use super::frame::{self, Broken, Frame, Kind, PIECE, Patient, Reader};
use super::hello::PROTOCOL;
use super::link::{CHANNELS, Gone};
use super::message::{Answer, Platform, Window};
use super::{Channel, Control, End, Found, Hello, Link, Look, Open, Program, Signal, Stream, Told};
use crate::dice::{Dice, rounds};
use crate::model::response::Done;
use crate::model::{self, Event, Exec, Failure, Kind as FailureKind, Request, Response};

fn reader(stream: &UnixStream, message: usize) -> Reader<Patient> {
    Reader::new(Patient::from(OwnedFd::from(stream.try_clone().unwrap())), message)
}

/// One that asks, and a thread for each thing that it asks for.
fn joined(answer: impl Fn(&Channel, Open) -> End + Send + Sync + 'static) -> Link {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let answer = std::sync::Arc::new(answer);
    std::thread::spawn(move || {
        let link = Link::new(theirs.try_clone().unwrap());
        let _ = link.hear(&mut reader(&theirs, frame::ASKED), &mut |channel, open| {
            let answer = std::sync::Arc::clone(&answer);
            std::thread::spawn(move || channel.end(&answer(&channel, open)));
            Ok(())
        });
        let _ = theirs.shutdown(std::net::Shutdown::Both);
    });
    let link = Link::new(ours.try_clone().unwrap());
    let ear = link.clone();
    std::thread::spawn(move || ear.hear(&mut reader(&ours, frame::ANSWERED), &mut |_, _| Err(Broken::Unknown(0))));
    link
}

fn program() -> Open {
    let machine = model::EnvironmentId { platform: "shop".parse().unwrap(), name: "1161".parse().unwrap() };
    let machine = machine.machine(&"web1".parse().unwrap());
    Open::Run(Program { machine, exec: Exec::new(["cat"]), terminal: None, joined: false })
}

fn sample() -> Vec<Frame> {
    let json = |kind, value: &dyn erased::Json| Frame { kind, channel: 3, body: value.bytes() };
    vec![
        Frame { channel: 0, ..json(Kind::Hello, &Hello::ours()) },
        json(Kind::Open, &program()),
        json(Kind::Open, &Open::Ask(Request::EnvList { platform: None })),
        Frame { kind: Kind::Credit, channel: 3, body: vec![1, 0, 0, 16, 0] },
        Frame { kind: Kind::Data, channel: 3, body: b"\0hello".to_vec() },
        json(Kind::Control, &Control::Resize { rows: 24, columns: 80 }),
        json(Kind::Told, &Told::Event(Event::Note { text: "x".into() })),
        Frame { kind: Kind::Eof, channel: 3, body: vec![0] },
        json(Kind::End, &End::Ended { code: 7, read: 5 }),
    ]
}

/// Values of several types in one list.
mod erased {
    pub trait Json {
        fn bytes(&self) -> Vec<u8>;
    }

    impl<T: serde::Serialize> Json for T {
        fn bytes(&self) -> Vec<u8> {
            serde_json::to_vec(self).unwrap()
        }
    }
}

fn bytes(frames: &[Frame]) -> Vec<u8> {
    let mut bytes = Vec::new();
    frames.iter().for_each(|frame| frame::write(&mut bytes, frame).unwrap());
    bytes
}

#[test]
fn frames_come_as_they_were_sent() {
    let frames = sample();
    let bytes = bytes(&frames);
    let mut reader = Reader::new(&bytes[..], frame::ASKED);
    for frame in frames {
        assert_eq!(reader.read().unwrap(), Some(frame));
    }
    assert_eq!(reader.read().unwrap(), None);
}

#[test]
fn any_bytes_are_frames_or_a_reason() {
    let mut dice = Dice::new();
    let seeds: Vec<Vec<u8>> = sample().iter().map(|frame| bytes(std::slice::from_ref(frame))).collect();
    let all = bytes(&sample());
    let words: [&[u8]; 5] = [&[0xff; 4], &[0, 0, 0, 0], b"{\"ask\":", b"[[[[[[[[[[[[[[[[", &[5, 0, 0, 0, 3]];
    let (mut good, mut bad) = (0, 0);
    for round in 0..rounds(20_000) {
        let bytes = if round % 2 == 0 { dice.damaged(&seeds, &words) } else { dice.damaged(&[&all[..]], &words) };
        let link = Link::new(std::io::sink());
        // A channel that is there, so that frames mean something.
        let _channel = Channel { shared: link.0.clone(), state: std::sync::Arc::new(super::channel::State::new(3)) };
        let mut kept = Vec::new();
        let heard = link.hear(&mut Reader::new(&bytes[..], frame::ASKED), &mut |channel, _| {
            channel.grant(Stream::In, 1 << 12).map_err(|Gone| Broken::CutShort)?;
            kept.push(channel);
            Ok(())
        });
        *(if heard.is_ok() { &mut good } else { &mut bad }) += 1;
    }
    assert!(good > 100 && bad > 100, "{good} good, {bad} bad");
}

#[test]
fn a_claimed_length_costs_nothing_and_a_long_one_is_refused() {
    for (kind, length, message) in [
        (Kind::Data, u32::MAX, "4294967295 bytes came where 32769"),
        (Kind::Open, (frame::ASKED + 1) as u32, "1048577 bytes came where 1048576"),
        (Kind::Hello, 1 << 20, "bytes came where 65536"),
        (Kind::Control, 1 << 20, "bytes came where 1024"),
        (Kind::Open, 1000, "in the middle of a frame"),
    ] {
        let mut bytes = length.to_be_bytes().to_vec();
        bytes.extend([kind as u8, 0, 0, 0, 1]);
        let error = Reader::new(&bytes[..], frame::ASKED).read().unwrap_err();
        assert!(error.to_string().contains(message), "{error}");
    }
    let error = Reader::new(&[0, 0, 0, 0, 99, 0, 0, 0, 0][..], frame::ASKED).read().unwrap_err();
    assert!(matches!(error, Broken::Unknown(99)), "{error}");
}

#[test]
fn half_a_frame_and_then_silence_has_an_end() {
    let (mut one, other) = UnixStream::pair().unwrap();
    let within = Duration::from_millis(50);
    one.write_all(&bytes(&sample())[..12]).unwrap();
    let error = reader(&other, frame::ASKED).patience(within).read().unwrap_err();
    assert!(matches!(error, Broken::Slow), "{error}");
    let (_one, other) = UnixStream::pair().unwrap();
    let error = reader(&other, frame::ASKED).read_within(within).unwrap_err();
    assert!(matches!(error, Broken::Slow), "{error}");
}

#[test]
fn another_protocol_is_named_on_both_sides_with_the_remedy() {
    let other = Hello { protocol: PROTOCOL + 1, adt: "0.9.0".into(), ..Hello::default() };
    for failure in [other.suits_who_asks().unwrap_err(), other.suits_who_answers().unwrap_err()] {
        let text = failure.to_string();
        assert!(text.contains("0.9.0") && text.contains(env!("CARGO_PKG_VERSION")), "{text}");
        assert!(failure.hints[0].contains("host:bootstrap"), "{failure:?}");
        assert_eq!(failure.kind, FailureKind::Conflict);
    }
    // A newer adt of the same protocol, with words that we don't know.
    let text = format!("{{\"protocol\":{PROTOCOL},\"adt\":\"7.0.0\",\"colour\":\"blue\"}}");
    let body = text.into_bytes();
    let bytes = bytes(&[Frame { kind: Kind::Hello, channel: 0, body }]);
    let hello = Hello::receive(&mut Reader::new(&bytes[..], frame::ASKED)).unwrap();
    hello.suits_who_asks().unwrap();
    let refused = Hello { refused: Some(Failure::new(FailureKind::Privilege, "work")), ..Hello::ours() };
    assert_eq!(refused.suits_who_asks().unwrap_err().kind, FailureKind::Privilege);
}

#[test]
fn who_does_not_greet_is_not_talked_to() {
    let open = bytes(&sample()[1..2]);
    let error = Hello::receive(&mut Reader::new(&open[..], frame::ASKED)).unwrap_err();
    assert!(error.to_string().contains("did not begin with a greeting"), "{error}");
    let http = b"GET / HTTP/1.1\r\nHost: adt\r\n\r\n";
    assert!(Hello::receive(&mut Reader::new(&http[..], frame::ASKED)).is_err());
    assert!(matches!(Hello::receive(&mut Reader::new(&[][..], frame::ASKED)), Err(Broken::CutShort)));
}

#[test]
fn an_answer_says_which_one_it_is() {
    for response in [Response::Platforms(Vec::new()), Response::Environments(Vec::new()), Response::Done(Done::default())] {
        let end = End::Answered(Answer(response));
        let text = serde_json::to_string(&end).unwrap();
        assert_eq!(serde_json::from_str::<End>(&text).unwrap(), end, "{text}");
    }
}

#[test]
fn a_request_is_asked_told_of_and_answered() {
    let link = joined(|channel, open| {
        let Open::Ask(Request::PlatformList) = open else { panic!("{open:?}") };
        for number in 0..1000 {
            channel.tell(&Told::Event(Event::Note { text: format!("{number}") })).unwrap();
        }
        End::Answered(Answer(Response::Platforms(Vec::new())))
    });
    let channel = link.open(&Open::Ask(Request::PlatformList), &[(Stream::Told, 100)]).unwrap();
    for number in 0..1000 {
        let Some(Ok(Told::Event(Event::Note { text }))) = channel.told() else { panic!("{number} is missing") };
        assert_eq!(text, number.to_string());
    }
    assert!(channel.told().is_none());
    assert_eq!(channel.ended(), Ok(End::Answered(Answer(Response::Platforms(Vec::new())))));
}

#[test]
fn a_million_bytes_go_both_ways_at_once_and_in_order() {
    let link = joined(|channel, _| {
        channel.grant(Stream::In, 4096).unwrap();
        let mut from = channel.incoming(Stream::In);
        let read = std::io::copy(&mut from, &mut channel.outgoing(Stream::Out)).unwrap();
        channel.finish(Stream::Out).unwrap();
        End::Ended { code: 0, read }
    });
    let channel = link.open(&program(), &[(Stream::Out, 5000)]).unwrap();
    let sent: Vec<u8> = (0..1_000_000u32).map(|number| (number * 7 % 251) as u8).collect();
    let came = std::thread::scope(|scope| {
        scope.spawn(|| {
            channel.send(Stream::In, &sent).unwrap();
            channel.finish(Stream::In).unwrap();
        });
        let mut came = Vec::new();
        channel.incoming(Stream::Out).read_to_end(&mut came).unwrap();
        came
    });
    assert!(came == sent, "{} bytes came back", came.len());
    assert_eq!(channel.ended(), Ok(End::Ended { code: 0, read: 1_000_000 }));
}

#[test]
fn a_writer_waits_for_its_reader_and_others_go_on_meanwhile() {
    let (sender, wrote) = mpsc::channel();
    let sender = std::sync::Mutex::new(sender);
    let link = joined(move |channel, open| {
        if matches!(open, Open::Look(_)) {
            return End::Found(Found::Nothing);
        }
        let mut count = 0;
        while channel.send(Stream::Out, &[0; 1000]).is_ok() {
            count += 1000;
            sender.lock().unwrap().send(count).unwrap();
        }
        End::Ended { code: 0, read: 0 }
    });
    let channel = link.open(&program(), &[(Stream::Out, 10_500)]).unwrap();
    for count in 1..=10 {
        assert_eq!(wrote.recv().unwrap(), count * 1000);
    }
    // Nobody takes it: not a byte more, and the connection is free for others.
    let look = link.open(&Open::Look(Look::Platforms), &[]).unwrap();
    assert_eq!(look.ended(), Ok(End::Found(Found::Nothing)));
    assert!(wrote.try_recv().is_err());
    channel.grant(Stream::Out, 500).unwrap();
    assert_eq!(wrote.recv().unwrap(), 11_000);
    // Whoever wants no more ends it.
    channel.finish(Stream::Out).unwrap();
    assert_eq!(channel.ended(), Ok(End::Ended { code: 0, read: 0 }));
}

#[test]
fn whoever_runs_something_hears_words_and_a_peer_that_vanished() {
    let (sender, heard) = mpsc::channel();
    let sender = std::sync::Mutex::new(sender);
    let link = joined(move |channel, _| {
        loop {
            let one = channel.heard();
            let is_over = one == Heard::Gone;
            sender.lock().unwrap().send(one).unwrap();
            if is_over {
                return End::Found(Found::Nothing);
            }
        }
    });
    let channel = link.open(&program(), &[]).unwrap();
    let words = [Control::Cancel, Control::Signal(Signal::Interrupt), Control::Resize { rows: 1, columns: 2 }];
    for word in words {
        channel.control(&word).unwrap();
        assert_eq!(heard.recv().unwrap(), Heard::Control(word));
    }
    // A frame that nobody may send hangs up on us.
    link.0.write(Kind::Hello, 1, Vec::new()).unwrap();
    link.0.write(Kind::Hello, 0, Vec::new()).unwrap();
    let _ = link.0.write(Kind::Eof, 0, vec![9]);
    assert_eq!(heard.recv().unwrap(), Heard::Gone);
    drop(channel);
    if let Ok(channel) = link.open(&program(), &[]) {
        assert_eq!(channel.ended(), Err(Gone));
    }
}

/// What one side says to one that answers, and why that hangs up.
fn hung_up(frames: &[Frame]) -> String {
    let link = Link::new(std::io::sink());
    let mut kept = Vec::new();
    let all = bytes(frames);
    let heard = link.hear(&mut Reader::new(&all[..], frame::ASKED), &mut |channel, _| {
        kept.push(channel);
        Ok(())
    });
    heard.unwrap_err().to_string()
}

#[test]
fn nobody_sends_what_was_not_allowed() {
    let open = |channel| Frame { channel, ..sample()[1].clone() };
    let data = Frame { kind: Kind::Data, channel: 3, body: b"\0hello".to_vec() };
    let control = sample()[5].clone();
    let of_kind = |kind, body: &[u8]| Frame { kind, channel: 3, body: body.to_vec() };
    let many: Vec<_> = (0..=CHANNELS as u32).map(open).collect();
    let mut words = vec![open(3)];
    words.extend(std::iter::repeat_n(control, 1025));
    for (frames, why) in [
        (vec![open(3), data], "that nobody allowed"),
        (vec![open(3), of_kind(Kind::Told, b"{}")], "that nobody allowed"),
        (vec![open(3), open(3)], "is open already"),
        (vec![open(3), of_kind(Kind::Data, &[9, 9])], "there is no stream 9"),
        (vec![open(3), of_kind(Kind::Credit, &[1, 2])], "a credit is no number"),
        (vec![open(3), of_kind(Kind::Data, &[])], "data is of no stream"),
        (vec![of_kind(Kind::Open, b"{\"ask\":{\"request\":\"env-up\",\"id\":{\"platform\":\"../..\"}}}")], "unreadable"),
        (vec![open(3), of_kind(Kind::Data, &[0])], "data of no bytes"),
        (vec![open(3), of_kind(Kind::Credit, &[3, 0, 0, 0, 9]), of_kind(Kind::Told, b"")], "data of no bytes"),
        (many, "more than 64 channels"),
        (words, "more than 1024 words"),
    ] {
        let told = hung_up(&frames);
        assert!(told.contains(why), "{told}: {why}");
    }
}

#[test]
fn messages_survive_the_way() {
    let window = Window { kind: "xterm".into(), rows: 3, columns: 4 };
    let platform = Platform { name: "shop".parse().unwrap(), folder: "/srv/shop".into() };
    let Open::Run(mut run) = program() else { unreachable!() };
    run.terminal = Some(window);
    let open = Open::Run(run);
    assert_eq!(serde_json::from_slice::<Open>(&serde_json::to_vec(&open).unwrap()).unwrap(), open);
    let end = End::Found(Found::Platforms(vec![platform]));
    assert_eq!(serde_json::from_slice::<End>(&serde_json::to_vec(&end).unwrap()).unwrap(), end);
    assert!(PIECE < WINDOW as usize);
}
