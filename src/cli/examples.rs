//! The lines at the end of each command's help, as somebody types them. A test reads every one as the command line would, and holds
//! that no command lacks them. Root's own commands have `sudo`; all others are for members of the group too.

pub const HOST_BOOTSTRAP: &str = "Examples:
  sudo adt host:bootstrap --dry-run       # what this host lacks
  sudo adt host:bootstrap                 # install and set it up
  sudo adt host:bootstrap --pool 50G      # and let machines share blocks of large files
  sudo adt host:bootstrap --remove        # take adt's files out of the system again";

pub const HOST_CHECK: &str = "Examples:
  adt host:check
  adt --store /srv/adt host:check         # what a setting would change";

pub const HOST_UP: &str = "Examples:
  sudo adt host:up --detach               # serve from now on
  sudo adt host:up                        # here, until Ctrl-C";

pub const HOST_HALT: &str = "Examples:
  sudo adt host:halt";

pub const HOST_BIND_PROXY: &str = "Examples:
  sudo adt host:bind-proxy                          # curl and browsers find and trust the pages
  sudo adt host:bind-proxy --with nginx,dnsmasq     # let these serve them
  adt host:bind-proxy --with apache --output /tmp/look";

pub const HOST_UNBIND_PROXY: &str = "Examples:
  sudo adt host:unbind-proxy              # as it was before adt
  adt host:unbind-proxy 1161              # one environment's part in other servers' configuration";

pub const PLATFORM_INIT: &str = "Examples:
  adt platform:init hello                 # a shipped example, into ./hello
  adt platform:init https://git.example.org/shop/platform.git --branch main
  adt platform:init ./shop                # a folder with a platform.toml";

pub const PLATFORM_LIST: &str = "Examples:
  adt platform:list
  adt platform:list --json | jq -r '.[].name'";

pub const PLATFORM_PULL: &str = "Examples:
  adt platform:pull shop && adt env:reload shop 1161";

pub const PLATFORM_BUILD: &str = "Examples:
  adt platform:build shop
  adt platform:build shop --force         # also what has not changed";

pub const PLATFORM_UP: &str = "Examples:
  adt platform:up shop                    # what was up before the last halt or restart
  adt platform:up shop 1161 1162          # only these";

pub const PLATFORM_HALT: &str = "Examples:
  adt platform:halt shop
  adt platform:halt shop 1161 --dry-run";

pub const PLATFORM_DESTROY: &str = "Examples:
  adt platform:destroy shop 1161 1162     # these environments
  adt platform:destroy shop --dry-run     # what would go with the whole platform
  adt platform:destroy shop --yes         # for scripts";

pub const PLATFORM_CHECK: &str = "Examples:
  adt platform:check shop
  adt platform:check shop 1161 --json";

pub const ENV_INIT: &str = "Examples:
  adt env:init 1161                       # a copy of production for ticket 1161
  adt env:init shop 1161 www:hotfix       # only the site www and what it needs, from a branch
  adt env:init shop 1161 --shared         # the whole group may change it";

pub const ENV_SHARE: &str = "Examples:
  adt env:share 1161
  adt env:share 1161 --off                # its owner's alone again";

pub const ENV_UP: &str = "Examples:
  adt env:up 1161
  adt env:up shop 1161 --dry-run";

pub const ENV_HALT: &str = "Examples:
  adt env:halt 1161";

pub const ENV_DESTROY: &str = "Examples:
  adt env:destroy 1161                    # lists what goes, and asks
  adt env:destroy shop 1161 --yes";

pub const ENV_RELOAD: &str = "Examples:
  adt env:reload 1161                     # after platform.toml was changed
  adt env:reload 1161 --data              # with the data that it began with";

pub const ENV_SNAPSHOT: &str = "Examples:
  adt env:snapshot 1161                   # named after the time
  adt env:snapshot shop 1161 before-migration";

pub const ENV_SNAPSHOTS: &str = "Examples:
  adt env:snapshots 1161
  adt env:snapshots 1161 --remove before-migration";

pub const ENV_REWIND: &str = "Examples:
  adt env:rewind 1161                     # to the newest snapshot
  adt env:rewind 1161 before-migration --dry-run";

pub const ENV_CHECK: &str = "Examples:
  adt env:check 1161
  adt env:check shop 1161 --json          # exit code 13 where a check found a fault";

pub const ENV_LIST: &str = "Examples:
  adt env:list                            # of all platforms
  adt env:list shop --json";

pub const ENV_SHOW: &str = "Examples:
  adt env:show 1161
  adt env:show 1161 --facts               # what templates can use";

pub const ENV_URLS: &str = "Examples:
  adt env:urls 1161
  adt env:urls 1161 --check               # name, address, certificate and page of each";

pub const ENV_SSH: &str = "Examples:
  adt env:ssh 1161 web1                   # a shell
  adt env:ssh shop 1161 db --user mysql
  adt env:ssh 1161 web1 -- systemctl --failed";

pub const ENV_EXEC: &str = "Examples:
  adt env:exec 1161 -- uptime             # on all its machines
  adt env:exec shop 1161 web1 web2 -- systemctl reload apache2";

pub const ENV_LOGS: &str = "Examples:
  adt env:logs 1161 -f                    # all machines, and what comes
  adt env:logs 1161 --site www --since 10m --grep ' 50[0-9] '
  adt env:logs shop 1161 --machine web1 -n 50";

pub const ENV_CP: &str = "Examples:
  adt env:cp 1161 dump.sql db:/tmp/       # in
  adt env:cp 1161 db:/var/log/mysql ./logs";

pub const SITE_DEPLOY: &str = "Examples:
  adt site:deploy 1161 www                # the newest commit of its branch
  adt site:deploy shop 1161 www --branch hotfix
  adt site:deploy 1161 www --commit 4f2a91c --dry-run";

pub const SITE_ROLLBACK: &str = "Examples:
  adt site:rollback 1161 www              # the release before
  adt site:rollback 1161 www --to 9b1c";

pub const SITE_ADD: &str = "Examples:
  adt site:add 1161 www
  adt site:add 1161 www:hotfix            # from this branch";

pub const SITE_REMOVE: &str = "Examples:
  adt site:remove 1161 www";

pub const SITE_BRANCH: &str = "Examples:
  adt site:branch 1161 www hotfix";

pub const SITE_LIST: &str = "Examples:
  adt site:list 1161";

pub const BOX_LIST: &str = "Examples:
  adt box:list
  adt box:list shop                       # with the platform's own";

pub const BOX_BUILD: &str = "Examples:
  adt box:build web-php
  adt -p shop box:build shop-web --force  # a platform's own box, although nothing has changed";

pub const BOX_SHOW: &str = "Examples:
  adt box:show web-php";

pub const BOX_EXPORT: &str = "Examples:
  sudo adt box:export web-php -o web-php.layers
  sudo adt -p shop box:export -o - | ssh other sudo adt box:import -";

pub const BOX_IMPORT: &str = "Examples:
  sudo adt box:import web-php.layers";

pub const BOX_PRUNE: &str = "Examples:
  adt box:prune --dry-run                 # how much that would free
  adt box:prune --yes";

pub const TARGET_LIST: &str = "Examples:
  adt target:list
  adt target:list shop --json";

pub const TARGET_CHECK: &str = "Examples:
  adt target:check production             # machines, sites, layers, history
  adt target:check shop production --json";

pub const TARGET_HISTORY: &str = "Examples:
  adt target:history production
  adt target:history shop production --json";

pub const TARGET_ACCESS: &str = "Examples:
  adt target:access production
  adt target:access shop production --json";

pub const TARGET_GRANT: &str = "Examples:
  adt target:grant production 203.0.113.7            # for eight hours
  adt target:grant shop production 203.0.113.0/24 --for 30m";

pub const TARGET_REVOKE: &str = "Examples:
  adt target:revoke production 203.0.113.7";

pub const TARGET_PLAN: &str = "Examples:
  adt target:plan 1161 production
  adt target:plan shop 1161 production --out plan.json   # exit code 14: there are changes";

pub const TARGET_APPLY: &str = "Examples:
  adt target:apply plan.json";

pub const TARGET_REHEARSE: &str = "Examples:
  sudo adt target:rehearse production --from 1161
  sudo adt target:rehearse shop production --from 1161 --keep
  sudo adt target:rehearse production --from 1161 --faults=connection   # broken at each step";

pub const ENV_PROMOTE: &str = "Examples:
  adt env:promote 1161 production --dry-run   # each step, and whether data is lost
  adt env:promote shop 1161 production";

pub const ENV_ROLLBACK: &str = "Examples:
  adt env:rollback production --dry-run
  adt env:rollback production --data      # and the data of then; tells what is lost
  adt env:rollback shop production";

pub const SCHEMA: &str = "Examples:
  adt schema platform > platform.schema.json";

pub const COMPLETIONS: &str = "Examples:
  adt completions bash > ~/.local/share/bash-completion/completions/adt
  adt completions zsh > ~/.zfunc/_adt
  adt completions fish > ~/.config/fish/completions/adt.fish";

pub const MAN: &str = "Examples:
  adt man | man -l -                      # adt's own page
  adt man env:init | man -l -             # a command's
  adt man --output ./man1                 # all of them, as files";
