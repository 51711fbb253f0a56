//! `lastmile chat`: a conversation in the terminal.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use lastmile::{ChatMessage, Prompt, Role};
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use crate::args::ChatArgs;
use crate::model::{runtime_config, start};
use crate::outcome::{Outcome, WrongUse, error_text};
use crate::run::{request, stream_to_stdout};

const HELP: &str =
    "Ctrl-C stops an answer, /reset forgets the conversation, /exit or Ctrl-D ends it";

pub(crate) fn chat(args: &ChatArgs) -> anyhow::Result<Outcome> {
    let runtime = start(runtime_config(&args.model.model, &args.model.run)?)?;
    if !runtime.info().has_chat_template {
        let name = &runtime.info().name;
        let why = format!("{name} has no chat template; --chat-template FILE gives it one");
        return Err(WrongUse(why).into());
    }
    let system = args.system.as_ref();
    let system = system.map(|text| ChatMessage { role: Role::System, content: text.clone() });
    let beginning: Vec<ChatMessage> = system.into_iter().collect();
    let mut messages = beginning.clone();
    let mut editor = DefaultEditor::new()?;
    let interrupts = Interrupts::listen()?;
    eprintln!("{}: {HELP}", runtime.info().name);
    loop {
        let line = match editor.readline("> ") {
            Ok(line) => line,
            Err(ReadlineError::Eof | ReadlineError::Interrupted) => return Ok(Outcome::Done),
            Err(error) => return Err(error.into()),
        };
        match line.trim() {
            "" => continue,
            "/exit" => return Ok(Outcome::Done),
            "/reset" => messages.clone_from(&beginning),
            command if command.starts_with('/') => eprintln!("{HELP}"),
            text => {
                editor.add_history_entry(text)?;
                messages.push(ChatMessage { role: Role::User, content: text.to_owned() });
                let request = request(&runtime, Prompt::Chat(messages.clone()), &args.sampling);
                interrupts.forget();
                match stream_to_stdout(&runtime, request, || interrupts.came()) {
                    Ok(answer) => {
                        messages.push(ChatMessage { role: Role::Assistant, content: answer });
                    }
                    // The turn that was refused is taken back, so that the next one can be shorter.
                    Err(error) => {
                        messages.pop();
                        eprintln!("lastmile: {}", error_text(&error));
                    }
                }
            }
        }
    }
}

/// Ctrl-C while an answer comes.
struct Interrupts {
    came: Arc<AtomicBool>,
    /// Its threads end with it.
    _listener: tokio::runtime::Runtime,
}

impl Interrupts {
    fn listen() -> anyhow::Result<Self> {
        let listener =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let came = Arc::new(AtomicBool::new(false));
        let noted = Arc::clone(&came);
        listener.spawn(async move {
            while tokio::signal::ctrl_c().await.is_ok() {
                // A second one, before a token came to see the first, means it.
                if noted.swap(true, Ordering::Relaxed) {
                    std::process::exit(130);
                }
            }
        });
        Ok(Interrupts { came, _listener: listener })
    }

    fn forget(&self) {
        self.came.store(false, Ordering::Relaxed);
    }

    fn came(&self) -> bool {
        self.came.load(Ordering::Relaxed)
    }
}
