# Reads log files inside a machine. Perl is part of every Debian; nothing else there tells how far it has read.
#
#   list PATTERN...                     the files: INODE SIZE MTIME ZONE PATH
#   read COUNT PATH                     the last lines of one (-1: all): INODE OFFSET MTIME ZONE PATH LINE
#   follow [INODE:OFFSET:PATH...] -- PATTERN...   what comes, from these places on, also after a rotation
#
# The fields are separated by tabs; OFFSET is behind the line, ZONE the machine's own.
use strict;
use warnings;
use Fcntl;
use File::Glob ();
use POSIX ();

my $LONGEST = 65536;
binmode STDOUT;
my $zone = POSIX::strftime('%z', localtime);
my $mode = shift @ARGV;

sub files {
    my %seen;
    grep { !/[\x00-\x1f]/ && -f && !$seen{$_}++ } map { File::Glob::bsd_glob($_, File::Glob::GLOB_NOSORT()) } @_;
}

# Opens a regular file only: a pipe would wait for its writer.
sub opened {
    my ($path, $offset) = @_;
    sysopen(my $handle, $path, O_RDONLY | O_NONBLOCK) or return;
    my @stat = stat $handle;
    -f _ or return;
    sysseek $handle, $offset, 0;
    return { path => $path, handle => $handle, inode => $stat[1], offset => $offset, rest => '' };
}

# Prints the whole lines that are there; a line without an end is printed once it has one, or is too long to wait for.
sub drain {
    my ($file, $until) = @_;
    my $mtime = (stat $file->{handle})[9];
    my $head = sub { join "\t", $file->{inode}, $file->{offset}, $mtime, $zone, $file->{path}, '' };
    while (!defined $until || $file->{offset} < $until) {
        sysread($file->{handle}, my $more, $LONGEST) or last;
        $file->{rest} .= $more;
        my $out = '';
        while ($file->{rest} =~ /\G([^\n]*)\n/gc) {
            $file->{offset} += length($1) + 1;
            $out .= $head->() . "$1\n";
        }
        $file->{rest} = substr $file->{rest}, pos $file->{rest} || 0;
        if (length $file->{rest} > $LONGEST) {
            $file->{offset} += length $file->{rest};
            $out .= $head->() . "$file->{rest}\n";
            $file->{rest} = '';
        }
        print $out;
    }
}

# Where the last so many lines begin.
sub tail_start {
    my ($file, $size, $count) = @_;
    my ($at, $found) = ($size, -1);
    while ($at > 0) {
        my $step = $at < $LONGEST ? $at : $LONGEST;
        $at -= $step;
        sysseek $file->{handle}, $at, 0;
        sysread($file->{handle}, my $block, $step) or last;
        for (my $end = length $block; ($end = rindex $block, "\n", $end - 1) >= 0; ) {
            return $at + $end + 1 if ++$found == $count;
            last if $end == 0;
        }
    }
    return 0;
}

if ($mode eq 'list') {
    for my $path (files(@ARGV)) {
        my @stat = stat $path or next;
        print join("\t", @stat[1, 7, 9], $zone, $path), "\n";
    }
} elsif ($mode eq 'read') {
    my ($count, $path) = @ARGV;
    my $file = opened($path, 0) or exit 0;
    my $size = -s $file->{handle};
    $file->{offset} = $count < 0 ? 0 : tail_start($file, $size, $count);
    sysseek $file->{handle}, $file->{offset}, 0;
    drain($file, $size);
} else {
    $| = 1;
    my (%mark, %open);
    while (@ARGV && (my $word = shift @ARGV) ne '--') {
        my ($inode, $offset, $path) = split /:/, $word, 3;
        $mark{$path} = [$inode, $offset];
    }
    my ($next, @paths) = (0);
    while (1) {
        if (time >= $next) {
            @paths = files(@ARGV);
            $next = time + 1;
        }
        for my $path (@paths) {
            my @stat = stat $path or next;
            my $file = $open{$path};
            if ($file && $file->{inode} != $stat[1]) {
                drain($file);
                undef $file;
            }
            if ($file && $stat[7] < $file->{offset}) {
                undef $file;
            }
            if (!$file) {
                my ($inode, $offset) = @{ delete $mark{$path} || [0, 0] };
                if ($inode && $inode != $stat[1]) {
                    # Rotated while nobody read: its end is in the file beside it.
                    my $old = opened("$path.1", $offset);
                    if ($old && $old->{inode} == $inode) {
                        $old->{path} = $path;
                        drain($old);
                    }
                }
                my $same = $inode == $stat[1] && $offset <= $stat[7];
                $file = opened($path, $same ? $offset : 0) or next;
                $open{$path} = $file;
            }
            # One that is written without end must not keep the others waiting.
            drain($file, $file->{offset} + 1_000_000) if $stat[7] > $file->{offset} + length $file->{rest};
        }
        select undef, undef, undef, 0.15;
    }
}
