//! Tags from the clouds, on the built binary, against loopback imitations of the metadata services and of the clouds' APIs
//! (specification: start-flags §5).

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};
use support::{Request, Server};

/// The limit of one request to a metadata service.
const REQUEST: Duration = Duration::from_secs(5);
/// What a busy machine may add to a bound.
const ALLOWANCE: Duration = Duration::from_secs(10);

const IMDS_TOKEN: &str = "imds-session";

/// What EC2's, ECS's and Google's metadata services and APIs answer; as strict as they are.
fn cloud(request: &Request) -> (u16, String) {
    let (method, target) = request.line.split_once(' ').unwrap_or_default();
    let known = |text: &str| (200, text.to_owned());
    if let Some(path) = target.strip_prefix("/ec2/latest/") {
        if path == "api/token" {
            let ttl = request.header("x-aws-ec2-metadata-token-ttl-seconds").and_then(|t| t.parse::<u32>().ok());
            return if method == "PUT" && ttl.is_some_and(|t| (1..=21_600).contains(&t)) { known(IMDS_TOKEN) } else { (400, String::new()) };
        }
        if method != "GET" || request.header("x-aws-ec2-metadata-token") != Some(IMDS_TOKEN) {
            return (401, String::new());
        }
        return match path {
            "dynamic/instance-identity/document" => known(
                r#"{"accountId":"123456789012","architecture":"x86_64","availabilityZone":"eu-west-1b","imageId":"ami-1","instanceId":"i-0abc","instanceType":"m7.large","region":"eu-west-1","version":"2017-09-30"}"#,
            ),
            "meta-data/instance-life-cycle" => known("spot"),
            "meta-data/instance-id" => known("i-0abc"),
            "meta-data/placement/region" => known("eu-west-1"),
            "meta-data/hostname" => known("ip-10-0-0-1.internal"),
            "meta-data/iam/security-credentials/" => known("builder"),
            "meta-data/iam/security-credentials/builder" => {
                known(r#"{"Code":"Success","AccessKeyId":"ASIAID","SecretAccessKey":"key","Token":"session/token+="}"#)
            }
            _ => (404, "<html>Not Found</html>".into()),
        };
    }
    if let Some(query) = target.strip_prefix("/ec2-api/?") {
        let authorization = request.header("authorization").unwrap_or_default();
        let signed = authorization.starts_with("AWS4-HMAC-SHA256 Credential=ASIAID/")
            && authorization.contains("/eu-west-1/ec2/aws4_request, SignedHeaders=host;x-amz-date;x-amz-security-token, Signature=");
        if !signed || request.header("x-amz-security-token") != Some("session/token+=") || request.header("x-amz-date").is_none() {
            return (403, "<Response><Errors><Error><Code>AuthFailure</Code></Error></Errors></Response>".into());
        }
        assert_eq!(query, "Action=DescribeTags&Filter.1.Name=resource-id&Filter.1.Value.1=i-0abc&Version=2016-11-15");
        return known(
            "<DescribeTagsResponse><requestId>1</requestId><tagSet>\
             <item><resourceId>i-0abc</resourceId><resourceType>instance</resourceType><key>Name</key><value>a &amp; b</value></item>\
             <item><resourceId>i-0abc</resourceId><resourceType>instance</resourceType><key>team</key><value>build</value></item>\
             </tagSet></DescribeTagsResponse>",
        );
    }
    if let Some(path) = target.strip_prefix("/ecs") {
        return match path {
            "" => known(r#"{"DockerName":"ecs-agent-1","Image":"agent:3","Limits":{"CPU":256}}"#),
            "/task" => known(
                r#"{"TaskARN":"arn:aws:ecs:eu-west-1:1:task/t","Limits":{"CPU":0.5,"Memory":1024},"LaunchType":"FARGATE","AvailabilityZone":"eu-west-1a"}"#,
            ),
            _ => (404, String::new()),
        };
    }
    if let Some(path) = target.strip_prefix("/computeMetadata/v1/") {
        if request.header("metadata-flavor") != Some("Google") {
            return (403, "Missing Metadata-Flavor:Google header.".into());
        }
        return match path {
            "instance/id" => known("4711"),
            "instance/name" => known("builder-7"),
            "instance/machine-type" => known("projects/42/machineTypes/n2-standard-4"),
            "instance/scheduling/preemptible" => known("TRUE"),
            "project/project-id" => known("my-project"),
            "instance/zone" => known("projects/42/zones/europe-west1-b"),
            "instance/attributes/pool" => known("fast"),
            "instance/service-accounts/default/token" => known(r#"{"access_token":"ya29","expires_in":3599,"token_type":"Bearer"}"#),
            _ => (404, "<html>".into()),
        };
    }
    if target == "/compute/v1/projects/my-project/zones/europe-west1-b/instances/builder-7" {
        return match request.header("authorization") {
            Some("Bearer ya29") => known(r#"{"name":"builder-7","labels":{"env":"prod","team":"infra"}}"#),
            _ => (401, "{}".into()),
        };
    }
    (404, String::new())
}

/// `start` with everything that names a cloud pointing to one base URL.
fn start(base: &str, plane: &str, home: &std::path::Path, args: &[&str], env: &[(&str, &str)]) -> Child {
    let base = base.trim_end_matches("/v3");
    let mut command = Command::new(env!("CARGO_BIN_EXE_ibex"));
    command.env_clear().env("HOME", home).env("NO_COLOR", "1").current_dir(home);
    command
        .env("AWS_EC2_METADATA_SERVICE_ENDPOINT", format!("{base}/ec2/"))
        .env("AWS_ENDPOINT_URL_EC2", format!("{base}/ec2-api"))
        .env("ECS_CONTAINER_METADATA_URI_V4", format!("{base}/ecs"))
        .env("GCE_METADATA_HOST", base.trim_start_matches("http://"))
        .env("CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE", format!("{base}/compute/v1/"));
    for (name, value) in env {
        if value.is_empty() {
            command.env_remove(name)
        } else {
            command.env(name, value)
        };
    }
    command.args(["start", "--token", "tok", "--build-path", "builds", "--endpoint", plane]).args(args);
    // Until the agent has handlers, a signal does what the agent inherited, and whoever runs the tests may ignore some: `nohup`
    // does, and a shell for what it starts in the background.
    // SAFETY: between fork and exec only system calls are made.
    unsafe {
        command.pre_exec(|| {
            for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGTERM] {
                libc::signal(signal, libc::SIG_DFL);
            }
            Ok(())
        })
    };
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the binary runs")
}

/// What became of a start: exit code, standard error, and the tags it would have registered with.
struct Started {
    code: Option<i32>,
    err: String,
    tags: Option<Vec<String>>,
}

fn finish(child: Child, plane: &Server) -> Started {
    let output = child.wait_with_output().expect("it ends");
    let tags = plane.requests().first().map(|r| {
        assert_eq!(r.line, "POST /v3/register");
        let tags = r.json()["meta_data"].as_array().cloned().unwrap_or_default();
        tags.iter().map(|t| t.as_str().expect("a tag").to_owned()).collect()
    });
    Started { code: output.status.code(), err: String::from_utf8_lossy(&output.stderr).into_owned(), tags }
}

/// Starts against an imitation, and a control plane that refuses the registration: the shortest way to see what is sent.
fn against(answer: impl Fn(&Request) -> (u16, String) + Send + Sync + 'static, args: &[&str], env: &[(&str, &str)]) -> (Started, Vec<Request>) {
    let (home, plane, services) = (tempfile::tempdir().expect("a directory"), refusing(), Server::start(answer));
    let child = start(&services.url, &plane.url, home.path(), args, env);
    (finish(child, &plane), services.requests())
}

fn refusing() -> Server {
    Server::start(|_| (401, "{\"message\":\"no such token\"}".into()))
}

fn lines(requests: &[Request]) -> Vec<&str> {
    requests.iter().map(|r| r.line.as_str()).collect()
}

fn each<T: Send>(cases: impl IntoIterator<Item = T>, play: impl Fn(T) + Sync) {
    std::thread::scope(|scope| {
        for case in cases {
            scope.spawn(|| play(case));
        }
    });
}

/// No waits but the random part, of less than a second each.
const NO_WAIT: [&str; 8] = [
    "--wait-for-ec2-meta-data-timeout",
    "0s",
    "--wait-for-ec2-tags-timeout",
    "0s",
    "--wait-for-ecs-meta-data-timeout",
    "0s",
    "--wait-for-gcp-labels-timeout",
    "0s",
];

/// Option, name in messages, how often it is tried.
const SOURCES: [(&str, &str, usize); 7] = [
    ("--tags-from-ec2-meta-data", "EC2 meta-data", 5),
    ("--tags-from-ec2-meta-data-paths=host=hostname", "EC2 meta-data from paths", 1),
    ("--tags-from-ec2-tags", "EC2 tags", 5),
    ("--tags-from-ecs-meta-data", "ECS meta-data", 5),
    ("--tags-from-gcp-meta-data", "GCP meta-data", 5),
    ("--tags-from-gcp-meta-data-paths=pool=instance/attributes/pool", "GCP meta-data from paths", 1),
    ("--tags-from-gcp-labels", "GCP instance labels", 5),
];

#[test]
fn given_every_source_then_the_tags_of_all_are_sent_in_the_order_of_the_chapter() {
    let mut args = vec!["--tags=own=1", "--queue=q"];
    args.extend(SOURCES.iter().map(|s| s.0).rev());
    let (started, requests) = against(cloud, &args, &[]);
    let expected = [
        "own=1",
        "aws:account-id=123456789012",
        "aws:ami-id=ami-1",
        "aws:architecture=x86_64",
        "aws:availability-zone=eu-west-1b",
        "aws:instance-id=i-0abc",
        "aws:instance-type=m7.large",
        "aws:region=eu-west-1",
        "aws:instance-life-cycle=spot",
        "host=ip-10-0-0-1.internal",
        "Name=a & b",
        "team=build",
        "ecs:task-arn=arn:aws:ecs:eu-west-1:1:task/t",
        "ecs:cpu-limit=0.5",
        "ecs:memory-limit=1024",
        "ecs:container-name=ecs-agent-1",
        "ecs:image=agent:3",
        "ecs:launch-type=FARGATE",
        "ecs:availability-zone=eu-west-1a",
        "gcp:instance-id=4711",
        "gcp:instance-name=builder-7",
        "gcp:machine-type=n2-standard-4",
        "gcp:preemptible=true",
        "gcp:project-id=my-project",
        "gcp:zone=europe-west1-b",
        "gcp:region=europe-west1",
        "pool=fast",
        "env=prod",
        "team=infra",
        "queue=q",
    ];
    assert_eq!(started.tags.as_deref(), Some(&expected.map(str::to_owned)[..]), "{}", started.err);
    assert!(!started.err.contains("failed to fetch"), "{}", started.err);
    assert_eq!(lines(&requests)[..2], ["PUT /ec2/latest/api/token", "GET /ec2/latest/dynamic/instance-identity/document"], "IMDSv2: the token first");
    assert_eq!(requests[0].header("content-length"), Some("0"), "a PUT without a body says so");
}

#[test]
fn given_less_than_everything_then_what_may_be_missing_is_left_out() {
    let answer = |request: &Request| match request.line.as_str() {
        "GET /ec2/latest/meta-data/instance-life-cycle" => (404, String::new()),
        "GET /ecs/task" => (200, r#"{"TaskARN":"t","Limits":{"CPU":0,"Memory":0},"LaunchType":"EC2","AvailabilityZone":"true"}"#.into()),
        "GET /ecs" => (200, r#"{"DockerName":"d","Image":"i"}"#.into()),
        _ => cloud(request),
    };
    let tags = |args: &[&str], env: &[(&str, &str)]| against(answer, args, env).0.tags.expect("it goes on");
    let ec2 = tags(&["--tags-from-ec2-meta-data"], &[]);
    assert!(ec2.len() == 7 && !ec2.iter().any(|t| t.contains("life-cycle")), "{ec2:?}");
    let ecs = ["ecs:task-arn=t", "ecs:container-name=d", "ecs:image=i", "ecs:launch-type=EC2"];
    assert_eq!(tags(&["--tags-from-ecs-meta-data"], &[]), ecs, "version 4, without zeros and without the zone `true`");
    // Version 3 of ECS's service: the same places below another variable, and it tells less.
    let services = Server::start(answer);
    let (home, plane) = (tempfile::tempdir().expect("a directory"), refusing());
    let uri = services.url.replace("/v3", "/ecs");
    let env = [("ECS_CONTAINER_METADATA_URI_V4", ""), ("ECS_CONTAINER_METADATA_URI", uri.as_str())];
    let v3 = finish(start(&services.url, &plane.url, home.path(), &["--tags-from-ecs-meta-data"], &env), &plane);
    assert_eq!(v3.tags.expect("it goes on"), ecs[..3]);
}

#[test]
fn given_credentials_and_a_region_in_the_environment_then_the_role_of_the_instance_is_not_asked_for() {
    let answer = |request: &Request| match request.line.split_once("/ec2-api/?") {
        Some(_) => {
            let authorization = request.header("authorization").unwrap_or_default();
            assert!(authorization.contains("Credential=AKID/") && authorization.contains("/us-east-2/ec2/"), "{authorization}");
            (200, "<tagSet><item><key>k</key><value>v</value></item></tagSet>".into())
        }
        None => cloud(request),
    };
    let env = [("AWS_ACCESS_KEY_ID", "AKID"), ("AWS_SECRET_ACCESS_KEY", "key"), ("AWS_REGION", "us-east-2")];
    let (started, requests) = against(answer, &["--tags-from-ec2-tags"], &env);
    assert_eq!(started.tags.expect("it goes on"), ["k=v"]);
    assert!(lines(&requests).iter().all(|l| !l.contains("/iam/") && !l.contains("/placement/")), "{requests:?}");
}

/// What a source may meet instead of its answer.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Wrong {
    NotFound,
    Broken,
    /// Nobody listens.
    Refused,
}

fn wrong(kind: Wrong) -> impl Fn(&Request) -> (u16, String) + Send + Sync + 'static {
    move |_| match kind {
        Wrong::NotFound => (404, "<html>Not Found</html>".into()),
        Wrong::Broken => (500, String::new()),
        Wrong::Refused => unreachable!("nobody is there"),
    }
}

#[test]
fn given_a_service_that_answers_wrongly_then_it_is_tried_as_often_as_the_chapter_says_and_the_agent_starts_without() {
    let cases = SOURCES.iter().flat_map(|s| [Wrong::NotFound, Wrong::Broken, Wrong::Refused].map(|w| (*s, w)));
    each(cases, |((option, name, tries), kind)| {
        let (home, plane, services) = (tempfile::tempdir().expect("a directory"), refusing(), Server::start(wrong(kind)));
        let base = if kind == Wrong::Refused { "http://127.0.0.1:1" } else { services.url.as_str() };
        let mut args = NO_WAIT.to_vec();
        args.extend([option, "--tags=own"]);
        let started = finish(start(base, &plane.url, home.path(), &args, &[]), &plane);
        assert_eq!(started.tags.as_deref(), Some(&["own".to_owned()][..]), "{option} {kind:?}: {}", started.err);
        let said = started.err.lines().filter(|l| l.contains(&format!(" ERROR  failed to fetch {name}: "))).collect::<Vec<_>>();
        assert_eq!(said.len(), 1, "{option} {kind:?}: {}", started.err);
        let why = match kind {
            Wrong::NotFound => "404 Not Found",
            Wrong::Broken => "500 Internal Server Error",
            Wrong::Refused => "Connection refused",
        };
        assert!(said[0].contains(why), "{option} {kind:?}: {}", said[0]);
        if kind != Wrong::Refused {
            assert_eq!(services.requests().len(), tries, "{option}: the first request of every try");
        }
    });
}

#[test]
fn given_a_service_that_answers_wrongly_when_tags_must_not_be_missing_then_nothing_is_registered() {
    each(SOURCES, |(option, name, _)| {
        let mut args = NO_WAIT.to_vec();
        args.extend([option, "--fail-on-missing-tags"]);
        let (started, _) = against(wrong(Wrong::NotFound), &args, &[]);
        assert_eq!((started.code, &started.tags), (Some(1), &None), "{option}: {}", started.err);
        let last = started.err.lines().last().unwrap_or_default();
        assert!(last.contains(&format!(" FATAL  failed to fetch {name}: ")), "{option}: {}", started.err);
    });
}

#[test]
fn given_a_page_where_data_should_be_then_no_tag_is_made_of_it() {
    let structured = [0, 2, 3, 6].map(|i| SOURCES[i]);
    each(structured.into_iter().flat_map(|s| ["<html>Welcome</html>", "[]", "\"text\"", ""].map(|page| (s, page))), |((option, name, _), page)| {
        let mut args = NO_WAIT.to_vec();
        args.extend([option, "--tags=own"]);
        let (started, _) = against(move |_| (200, page.to_owned()), &args, &[]);
        assert_eq!(started.tags.as_deref(), Some(&["own".to_owned()][..]), "{option} {page:?}: {}", started.err);
        assert!(started.err.contains(&format!("failed to fetch {name}: ")), "{option} {page:?}: {}", started.err);
    });
}

#[test]
fn given_no_tags_at_all_then_that_counts_as_a_failure() {
    let cases =
        [("--tags-from-ec2-tags", "/ec2-api/", "<tagSet/>", "EC2 tags"), ("--tags-from-gcp-labels", "/compute/", "{}", "GCP instance labels")];
    each(cases, |(option, place, empty, name)| {
        let mut args = NO_WAIT.to_vec();
        args.push(option);
        let answer = move |request: &Request| if request.line.contains(place) { (200, empty.to_owned()) } else { cloud(request) };
        let (started, requests) = against(answer, &args, &[]);
        assert!(started.err.contains(&format!("failed to fetch {name}: {name} are empty")), "{}", started.err);
        assert_eq!(requests.iter().filter(|r| r.line.contains(place)).count(), 5, "they may come late: tried five times");
    });
}

#[test]
fn given_a_service_that_is_not_ready_at_once_then_a_later_try_succeeds_after_a_fifth_of_the_time_limit() {
    let cases = [
        ("--tags-from-ec2-meta-data", "--wait-for-ec2-meta-data-timeout"),
        ("--tags-from-ec2-tags", "--wait-for-ec2-tags-timeout"),
        ("--tags-from-ecs-meta-data", "--wait-for-ecs-meta-data-timeout"),
        ("--tags-from-gcp-labels", "--wait-for-gcp-labels-timeout"),
    ];
    each(cases, |(option, limit)| {
        let arrivals = Arc::new(Mutex::new(Vec::new()));
        let seen = arrivals.clone();
        let answer = move |request: &Request| {
            let mut seen = seen.lock().expect("no panic while held");
            seen.push(Instant::now());
            if seen.len() == 1 { (503, String::new()) } else { cloud(request) }
        };
        let (started, _) = against(answer, &[option, limit, "5s"], &[]);
        assert!(started.tags.is_some_and(|t| !t.is_empty()), "{option}: {}", started.err);
        assert!(!started.err.contains("failed to fetch"), "{option}: {}", started.err);
        let arrivals = arrivals.lock().expect("no panic while held");
        let waited = arrivals[1] - arrivals[0];
        assert!(waited >= Duration::from_secs(1) && waited < Duration::from_secs(2) + ALLOWANCE, "{option}: {waited:?}");
    });
}

#[test]
fn given_a_refused_imds_token_then_nothing_is_asked_without_one() {
    let answer = |request: &Request| if request.line.starts_with("PUT ") { (403, String::new()) } else { cloud(request) };
    each([0, 1, 2].map(|i| SOURCES[i]), |(option, name, tries)| {
        let mut args = NO_WAIT.to_vec();
        args.push(option);
        let (started, requests) = against(answer, &args, &[]);
        assert_eq!(lines(&requests), vec!["PUT /ec2/latest/api/token"; tries], "{option}");
        assert!(started.err.contains(&format!("failed to fetch {name}: PUT http")) && started.err.contains("403 Forbidden"), "{}", started.err);
    });
}

#[test]
fn given_paths_then_the_first_error_ends_their_source_and_only_that() {
    let paths = "--tags-from-ec2-meta-data-paths=host=hostname,none=nowhere,late=hostname";
    let (started, requests) = against(cloud, &[paths, "--tags-from-gcp-meta-data-paths=pool=/instance/attributes/pool"], &[]);
    assert_eq!(started.tags.expect("it goes on"), ["pool=fast"], "{}", started.err);
    assert_eq!(lines(&requests).iter().filter(|l| l.ends_with("/hostname")).count(), 1, "{requests:?}");
    let (started, _) = against(cloud, &["--tags-from-ec2-meta-data-paths=host=hostname,nonsense,late=hostname"], &[]);
    assert_eq!(started.tags.expect("it goes on"), ["host=ip-10-0-0-1.internal"], "the pairs before the malformed one");
    let text = "Error parsing meta-data tag and path pairs: \"nonsense\" cannot be parsed, format should be `tag=metadata/path`";
    assert!(started.err.contains(text), "{}", started.err);
}

/// Requests to a hanging service that wait to be looked at; an agent makes five tries.
const ASKED: usize = 64;

/// A service that takes a request and never ends its answer; `head`: what it sends of it. Connections stay open until it is dropped.
struct Hanging {
    url: String,
    asked: mpsc::Receiver<String>,
}

fn hanging(head: &'static str) -> Hanging {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
    let url = format!("http://{}", listener.local_addr().expect("its address"));
    let (tell, asked) = mpsc::sync_channel(ASKED);
    std::thread::spawn(move || {
        let mut open = Vec::new();
        for mut stream in listener.incoming().flatten() {
            let mut line = String::new();
            let mut reader = BufReader::new(stream.try_clone().expect("a second handle"));
            if reader.read_line(&mut line).is_err() || stream.write_all(head.as_bytes()).is_err() || tell.send(line.trim_end().to_owned()).is_err() {
                return;
            }
            open.push(stream);
        }
    });
    Hanging { url, asked }
}

#[test]
fn given_a_service_that_hangs_then_a_request_is_given_up_after_its_limit_and_the_agent_starts_without() {
    let answers = ["", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbegun"];
    let cases = answers.into_iter().flat_map(|head| [(1, "PUT"), (5, "GET")].map(|(i, method)| (head, SOURCES[i], method)));
    each(cases, |(head, (option, name, _), method)| {
        let (home, plane, service) = (tempfile::tempdir().expect("a directory"), refusing(), hanging(head));
        let begun = Instant::now();
        let started = finish(start(&service.url, &plane.url, home.path(), &[option, "--tags=own"], &[]), &plane);
        let took = begun.elapsed();
        assert_eq!(started.tags.as_deref(), Some(&["own".to_owned()][..]), "{option}: {}", started.err);
        let said = format!("failed to fetch {name}: {method} {}", service.url);
        assert!(started.err.contains(&said) && started.err.contains(": no answer within 5s"), "{option}: {}", started.err);
        assert!(took >= REQUEST && took < REQUEST + ALLOWANCE, "{option} {head:?}: {took:?}");
    });
}

#[test]
fn given_a_service_that_hangs_when_tags_must_not_be_missing_then_the_start_fails() {
    let (home, plane, service) = (tempfile::tempdir().expect("a directory"), refusing(), hanging(""));
    let started = finish(start(&service.url, &plane.url, home.path(), &[SOURCES[1].0, "--fail-on-missing-tags"], &[]), &plane);
    assert_eq!((started.code, started.tags), (Some(1), None));
    assert!(started.err.lines().last().unwrap_or_default().contains(" FATAL  failed to fetch EC2 meta-data from paths: PUT "), "{}", started.err);
}

#[test]
fn given_a_service_that_hangs_once_then_it_is_asked_again() {
    let count = AtomicUsize::new(0);
    // The first request is answered when the agent has long turned away from it.
    let answer = move |request: &Request| {
        if count.fetch_add(1, Ordering::Relaxed) == 0 {
            std::thread::park_timeout(REQUEST * 4);
        }
        cloud(request)
    };
    let (started, requests) = against(answer, &["--tags-from-ecs-meta-data", "--wait-for-ecs-meta-data-timeout=0s"], &[]);
    assert_eq!(started.tags.map(|t| t.len()), Some(7), "{}", started.err);
    assert_eq!(lines(&requests), ["GET /ecs/task", "GET /ecs/task", "GET /ecs"]);
}

#[test]
fn given_a_signal_while_tags_are_fetched_then_the_process_ends_by_it_and_nothing_is_registered() {
    each([("TERM", 15), ("INT", 2), ("HUP", 1)], |(name, number)| {
        let (home, plane, service) = (tempfile::tempdir().expect("a directory"), refusing(), hanging(""));
        let mut child = start(&service.url, &plane.url, home.path(), &["--tags-from-ec2-meta-data"], &[]);
        assert_eq!(service.asked.recv_timeout(ALLOWANCE * 2).expect("it asks"), "PUT /ec2/latest/api/token HTTP/1.1");
        let sent = Instant::now();
        assert!(Command::new("kill").args(["-s", name, &child.id().to_string()]).status().expect("kill").success());
        let status = child.wait().expect("it ends");
        assert!(sent.elapsed() < Duration::from_secs(1) + ALLOWANCE, "{name}: {:?}", sent.elapsed());
        assert!(status.signal() == Some(number) || status.code() == Some(128 + number), "{name}: {status:?}");
        let mut err = String::new();
        child.stderr.take().expect("stderr").read_to_string(&mut err).expect("text");
        assert!(plane.requests().is_empty(), "{name}: {err}");
    });
}

#[test]
fn given_a_proxy_then_metadata_services_are_not_asked_through_it_as_they_hand_out_credentials() {
    let proxy = Server::start(|request| if request.line.contains("/register") { (401, "{}".into()) } else { (200, "stolen".into()) });
    let home = tempfile::tempdir().expect("a directory");
    let at = proxy.url.trim_end_matches("/v3").to_owned();
    // An address that no host has (RFC 5737): loopback would never be asked through a proxy.
    let env = [("HTTP_PROXY", at.as_str()), ("GCE_METADATA_HOST", "192.0.2.1"), ("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://192.0.2.1")];
    let child = start("http://127.0.0.1:1", "http://control.example/v3", home.path(), &[SOURCES[1].0, SOURCES[5].0], &env);
    let output = child.wait_with_output().expect("it ends");
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(err.contains("failed to fetch EC2 meta-data from paths: ") && err.contains("failed to fetch GCP meta-data from paths: "), "{err}");
    assert_eq!(lines(&proxy.requests()), ["POST http://control.example/v3/register"], "the control plane is, by contrast");
}
