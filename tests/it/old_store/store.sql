PRAGMA user_version = 2;
CREATE TABLE platforms (
        name TEXT PRIMARY KEY, folder TEXT NOT NULL, source TEXT NOT NULL, branch TEXT, created INTEGER NOT NULL
    ) STRICT;
INSERT INTO platforms VALUES('old','@FOLDER@','@FOLDER@',NULL,1796028118);
CREATE TABLE environments (
        platform TEXT NOT NULL, name TEXT NOT NULL,
        wanted TEXT NOT NULL, created INTEGER NOT NULL, updated INTEGER NOT NULL, owner TEXT NOT NULL,
        network TEXT NOT NULL UNIQUE, definition TEXT NOT NULL, disk INTEGER,
        PRIMARY KEY (platform, name)
    ) STRICT;
INSERT INTO environments VALUES('old','1161','halted',1796028125,1796028134,'root','10.232.0.0/26','{"platform":{"name":"old","summary":"","domain":null,"machines":[{"role":"db","summary":"","boxed":{"name":"debian"},"count":null,"limits":{"memory_bytes":134217728,"cpus":null,"processes":null},"after":[],"data":["/srv/data"],"provision":[],"logs":[]}],"sites":[],"data":[{"name":"files","machine":"db","engine":{"kind":"files","target":"/srv/data","user":null},"seed":"seed"}],"targets":[],"folder":"@FOLDER@"},"domain":"example.test","boxes":{"db":{"layers":["@LAYER0@","@LAYER1@","@LAYER2@"],"health":{"checks":["booted"],"deadline_seconds":60},"logs":[]}},"numbers":{"db":2}}',2514944);
CREATE TABLE applied (
        platform TEXT NOT NULL, environment TEXT NOT NULL, machine TEXT NOT NULL, spec TEXT NOT NULL,
        PRIMARY KEY (platform, environment, machine)
    ) STRICT;
INSERT INTO applied VALUES('old','1161','db','{"id":{"environment":{"platform":"old","name":"1161"},"machine":"db"},"hostname":"db","fqdn":"db.1161.old.example.test","layers":["@LAYER0@","@LAYER1@","@LAYER2@"],"seeded":0,"limits":{"memory_bytes":134217728,"cpus":null,"processes":4096},"network":{"bridge":"adtggrtdhu5","host_link":"adtggrtdhu5-2","mac":"02:ad:5f:d2:24:02","v4":"10.232.0.2","v4_prefix":26,"v4_gateway":"10.232.0.1","v6":"fd20:7199:d431:a000::2","v6_prefix":64},"hosts":"127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n10.232.0.2 db.1161.old.example.test db\nfd20:7199:d431:a000::2 db.1161.old.example.test\n10.232.0.1 gateway.1161.old.example.test 1161.old.example.test\n","nameservers":["10.255.255.53"],"search":["1161.old.example.test"],"trusted":{"example.test":"-----BEGIN CERTIFICATE-----\nMIICLDCCAdGgAwIBAgIUbkyhlVG5AI2TpzidCkOQ9dmLLZMwCgYIKoZIzj0EAwIw\nSDEMMAoGA1UECgwDYWR0MTgwNgYDVQQDDC9hZHQgbG9jYWwgYXV0aG9yaXR5IGZv\nciBleGFtcGxlLnRlc3QgKDRhZDRlZWMxKTAeFw0yNjExMzAwNzQyMDVaFw0zNjEx\nMjcwODQyMDVaMEgxDDAKBgNVBAoMA2FkdDE4MDYGA1UEAwwvYWR0IGxvY2FsIGF1\ndGhvcml0eSBmb3IgZXhhbXBsZS50ZXN0ICg0YWQ0ZWVjMSkwWTATBgcqhkjOPQIB\nBggqhkjOPQMBBwNCAASy19uoNfNMn++1w79AM53c79wcu2G+Oxh/7+15qnlCAth3\nnWrJG+JXgVwOMab7RQ8jR1Rm3xpEFMw6vrDrbomJo4GYMIGVMA4GA1UdDwEB/wQE\nAwIBBjBQBgNVHR4BAf8ERjBEoBAwDoIMZXhhbXBsZS50ZXN0oTAwCocIAAAAAAAA\nAAAwIocgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAwHQYDVR0OBBYE\nFErU7sGYSvb3Yxax7L/r8DNw2vfjMBIGA1UdEwEB/wQIMAYBAf8CAQAwCgYIKoZI\nzj0EAwIDSQAwRgIhAOCurCa+UrcivV3C1MT5Bwj6R8R0fCIuTBkOwakVKRFpAiEA\nhI4mOcP+Gt223n8u5X606Le7s0V2DcWplxcDJ+gT/as=\n-----END CERTIFICATE-----\n"},"mounts":[],"files":{},"health":{"checks":["booted"],"deadline_seconds":60}}');
CREATE TABLE sites (
        platform TEXT NOT NULL, environment TEXT NOT NULL, site TEXT NOT NULL, code TEXT NOT NULL,
        PRIMARY KEY (platform, environment, site)
    ) STRICT;
