tree:
  pkg.installed:
    - install_recommends: False

/etc/with-salt:
  file.managed:
    - contents: hello from salt on {{ grains['os'] }} {{ grains['osmajorrelease'] }}
    - mode: '0644'
