# Writes every byte that arrives in this network namespace to a file, until it is ended.
# usage: perl capture.pl FILE. Needs root; AF_PACKET is 17 and ETH_P_ALL is 3 on Linux.
use strict;
use warnings;
use Socket;

my $file = shift or die "usage: capture.pl FILE\n";
socket(my $socket, 17, SOCK_RAW, unpack('S', pack('n', 3))) or die "no packet socket: $!\n";
setsockopt($socket, SOL_SOCKET, 33, pack('i', 256 << 20))    # SO_RCVBUFFORCE
    or setsockopt($socket, SOL_SOCKET, SO_RCVBUF, pack('i', 64 << 20));
open(my $out, '>:raw', $file) or die "$file: $!\n";
$out->autoflush(1) if $out->can('autoflush');
$SIG{TERM} = sub { close $out; exit 0 };
print STDOUT "capturing\n";
close STDOUT;
while (defined(my $sender = recv($socket, my $packet, 1 << 18, 0))) {
    # Byte 10 of sockaddr_ll is the packet type; 4 is PACKET_OUTGOING: what this side sent is not of interest.
    next if ord(substr($sender, 10, 1)) == 4;
    print {$out} $packet or die "$file: $!\n";
}
